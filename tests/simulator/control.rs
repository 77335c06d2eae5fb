//! Control: the gate, the counts and the `/simulator` API.

use futures_util::future::join_all;
use http_body_util::Full;
use pollgate::simulator::{Forced, Status};
use serde_json::json;
use tokio::time::timeout;

use crate::world::{EVER, UNIFIED, World, text};

#[tokio::test(start_paused = true)]
async fn a_closed_gate_holds_polls_and_counts_them() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{UNIFIED}/{id}");
    world.simulator.gate().close();
    let polls = join_all((0..50).map(|_| world.get(&path)));
    let opener = async {
        let gathered = world.simulator.gate().waiting().await_at_least(50);
        timeout(EVER, gathered).await.expect("fifty waiting");
        assert_eq!(world.simulator.counts().open_polls, 50);
        world.simulator.gate().open();
    };
    let (answers, ()) = tokio::join!(polls, opener);
    assert!(answers.iter().all(|answer| answer.status == 200));
    world.counted(|counts| counts.open_polls == 0).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.status_polls, counts.max_open_polls), (50, 50));
    assert_eq!((counts.unified_polls, counts.poll_answers[&200]), (50, 50));
    assert_eq!(world.simulator.polls_of(&id), 50);
}

#[tokio::test(start_paused = true)]
async fn everything_can_be_controlled_over_http() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    let status_path = format!("{UNIFIED}/{id}");
    let path = format!("/simulator/tasks/{id}");
    world.get(&status_path).await;
    let told = world.get(&path).await.json();
    assert_eq!(
        told["polls"],
        json!({"native": 0, "openai": 0, "total": 1, "unified": 1})
    );
    assert_eq!(told["truth"]["status"], "IN_PROGRESS");
    let forced = json!({"status": "FAILURE", "fail_reason": "no"});
    assert_eq!(
        world.post(&path, &forced).await.json()["truth"]["state"],
        "failed"
    );
    let row = world.get(&status_path).await.json();
    assert_eq!(row["data"]["fail_reason"], "no");
    let fault = json!({"fault": 503, "next": 1});
    let rules = world.post("/simulator/faults", &fault).await.json();
    assert_eq!(rules["rules"][0]["fault"], "503");
    assert_eq!(world.get(&status_path).await.status, 503);
    world
        .post(
            "/simulator/faults",
            &json!({"rules": [{"fault": "html"}, {"fault": "empty"}]}),
        )
        .await;
    assert_eq!(world.simulator.faults().rules().len(), 2);
    let request = world
        .request("DELETE", "/simulator/faults")
        .body(Full::default());
    world.send(request.expect("valid")).await;
    assert_eq!(world.simulator.faults().rules(), []);
    world.post("/simulator/keys/sk-K/revoke", &json!({})).await;
    assert_eq!(world.get(&status_path).await.status, 401);
    world.post("/simulator/keys/K/restore", &json!({})).await;
    assert_eq!(world.get(&status_path).await.status, 200);
    let gate = world
        .post("/simulator/gate", &json!({"closed": true}))
        .await
        .json();
    assert_eq!(gate, json!({"closed": true, "waiting": 0}));
    let overview = world.get("/simulator").await.json();
    assert_eq!(overview["counts"]["status_polls"], 5);
    assert_eq!(
        overview["counts"]["poll_answers"],
        json!({"200": 3, "401": 1, "503": 1})
    );
    assert_eq!(
        overview["tasks"],
        json!({"by_status": {"FAILURE": 1}, "total": 1})
    );
    let request = world.request("DELETE", "/simulator").body(Full::default());
    world.send(request.expect("valid")).await;
    assert_eq!(world.simulator.counts().requests, 0);
    assert_eq!(world.get(&status_path).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn invalid_control_requests_are_refused_with_what_is_accepted() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    let task = format!("/simulator/tasks/{id}");
    for (path, body, status, told) in [
        (
            "/simulator/faults",
            json!({"fault": "boom"}),
            400,
            "takes 429,",
        ),
        (
            "/simulator/faults",
            json!({"fault": "503", "rate": 7}),
            400,
            "from 0 to 1",
        ),
        (
            "/simulator/faults",
            json!({"fault": "503", "rate": 0.1, "next": 1}),
            400,
            "not both",
        ),
        (
            "/simulator/faults",
            json!({"rules": [{"flaut": "503"}]}),
            400,
            "flaut",
        ),
        (task.as_str(), json!({"status": "DONE"}), 400, "SUCCESS"),
        (
            task.as_str(),
            json!({"status": "SUCCESS", "progress": 101}),
            400,
            "percentage",
        ),
        (
            "/simulator/tasks/none",
            json!({"status": "SUCCESS"}),
            404,
            "no task `none`",
        ),
        ("/simulator/gate", json!({}), 400, "closed"),
        ("/simulator", json!({}), 405, "takes GET, DELETE"),
        (
            "/simulator/coffee",
            json!({}),
            404,
            "POST /simulator/faults",
        ),
    ] {
        let answer = world.post(path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}");
        let error = answer.json();
        assert!(text(&error["error"]).contains(told), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_can_be_forced_to_have_no_url() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let forced = Forced {
        url: Some(String::new()),
        ..Forced::from(Status::Success)
    };
    assert!(world.simulator.force(&id, forced));
    let answer = world.get(&format!("{UNIFIED}/{id}")).await.json();
    assert_eq!(
        (&answer["data"]["status"], &answer["data"]["url"]),
        (&json!("succeeded"), &json!(""))
    );
    assert!(!world.simulator.force("none", Status::Success));
}
