//! Tasks: how they are created, what both paths say of them, and how they end.

use std::time::Duration;

use bytes::Bytes;
use pollgate::simulator::{Channel, ChannelChoice, Outcome, Settings, State, Status, TaskOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, advance};

use crate::world::{OPENAI, UNIFIED, World, text};

#[tokio::test(start_paused = true)]
async fn a_task_lives_from_its_creation_to_its_end_on_both_paths() {
    let world = World::new().await;
    let body = json!({"model": "unheard-of", "prompt": "a cat", "seconds": "8",
                      "simulate": {"lifetime": "100s"}});
    for (path, other) in [(OPENAI, UNIFIED), (UNIFIED, OPENAI)] {
        let created = world.post(path, &body).await;
        assert_eq!(created.status, 200);
        assert_eq!(created.header("content-type"), "application/json");
        let created = created.json();
        assert_eq!(created["status"], "queued");
        let id = text(created.get("task_id").unwrap_or(&created["id"])).to_owned();
        assert!(id.starts_with("task_") && id.len() == 37, "{id}");
        let born = Instant::now();
        for (after, state, unified, openai) in [
            (0, State::Queued, "queued", "queued"),
            (50, State::Processing, "processing", "in_progress"),
            (50, State::Succeeded, "succeeded", "completed"),
        ] {
            advance(Duration::from_secs(after)).await;
            assert_eq!(
                world.simulator.truth(&id).map(|truth| truth.state),
                Some(state)
            );
            let answer = world.get(&format!("{UNIFIED}/{id}")).await;
            assert_eq!(answer.json()["data"]["status"], unified);
            let answer = world.get(&format!("{OPENAI}/{id}")).await;
            assert_eq!(answer.json()["status"], openai);
            assert_eq!(answer.header("content-type"), "application/json");
        }
        assert_eq!(world.simulator.polls_of(&id), 6, "{other}");
        let lived = world.simulator.states_between(&id, born, Instant::now());
        let all = vec![State::Queued, State::Processing, State::Succeeded];
        assert_eq!(lived, Some(all));
    }
}

#[tokio::test(start_paused = true)]
async fn state_changes_show_at_the_next_refresh_round() {
    let world = World::with(Settings {
        refresh: Duration::from_secs(15),
        ..Settings::default()
    })
    .await;
    let body = |model| json!({"model": model, "simulate": {"lifetime": "16s"}});
    let slow = world.post(OPENAI, &body("kling")).await.json();
    let live = world.post(OPENAI, &body("veo-3")).await.json();
    advance(Duration::from_secs(17)).await;
    let status = async |task: &Value| {
        let answer = world.get(&format!("{OPENAI}/{}", text(&task["id"]))).await;
        answer.json()["status"].clone()
    };
    assert_eq!(status(&slow).await, "in_progress");
    assert_eq!(status(&live).await, "completed");
    advance(Duration::from_secs(14)).await;
    assert_eq!(status(&slow).await, "completed");
}

#[tokio::test(start_paused = true)]
async fn every_channel_answers_both_paths_in_every_status() {
    let world = World::new().await;
    for channel in Channel::ALL {
        for status in [
            Status::NotStart,
            Status::InProgress,
            Status::Success,
            Status::Failure,
        ] {
            let id = world.held(channel.name(), status);
            for path in [UNIFIED, OPENAI] {
                let answer = world.get(&format!("{path}/{id}")).await;
                assert_eq!(answer.status, 200);
                assert_eq!(answer.header("content-type"), "application/json");
                assert!(answer.json().is_object(), "{channel:?} {status:?} {path}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mixed_takes_each_channel_in_turn() {
    let world = World::with(Settings {
        channel: ChannelChoice::Mixed,
        ..Settings::default()
    })
    .await;
    for channel in Channel::ALL {
        let id = world.held("unheard-of", Status::Queued);
        let told = world.get(&format!("/simulator/tasks/{id}")).await.json();
        assert_eq!(told["channel"], channel.name());
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_fails_the_row_but_not_the_vendors_stored_document() {
    let world = World::new().await;
    for model in ["ali", "sora-2"] {
        let options = TaskOptions {
            outcome: Some(Outcome::TimedOut),
            lifetime: Some(Duration::ZERO),
            ..TaskOptions::default()
        };
        let id = world
            .simulator
            .create("K", model, options)
            .expect("a free id");
        let row = world.get(&format!("{UNIFIED}/{id}")).await.json();
        assert_eq!(row["data"]["status"], "FAILURE");
        assert_eq!(row["data"]["result_url"], "任务超时（1440分钟）");
        let object = world.get(&format!("{OPENAI}/{id}")).await.json();
        assert_eq!(object["status"], "in_progress", "{model}");
    }
}

#[tokio::test(start_paused = true)]
async fn ids_of_any_spelling_are_found() {
    let world = World::new().await;
    for (id, path) in [
        ("sora-2:task_01k", "sora-2:task_01k"),
        ("a/b c", "a%2Fb%20c"),
        ("b64==", "b64%3D%3D"),
    ] {
        let body = json!({"model": "documented", "simulate": {"id": id, "lifetime": "0s"}});
        assert_eq!(world.post(OPENAI, &body).await.json()["id"], id);
        let answer = world.get(&format!("{UNIFIED}/{path}")).await.json();
        assert_eq!(answer["data"]["task_id"], id);
        let file = world.get(text(&answer["data"]["url"])).await;
        assert_eq!(file.status, 200);
        assert_eq!(world.post(OPENAI, &body).await.status, 400);
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalid_create_request_names_the_mistake() {
    let world = World::new().await;
    for (body, told) in [
        ("{", "not JSON"),
        ("[1]", "a JSON object"),
        (r#"{"simulate":{"lifetime":5}}"#, "simulate"),
    ] {
        let request = world
            .request("POST", OPENAI)
            .body(body.into())
            .expect("valid");
        let answer = world.send(request).await;
        assert_eq!(answer.status, 400);
        assert!(text(&answer.json()["message"]).contains(told), "{answer:?}");
    }
    let large = Bytes::from(vec![b' '; 17 << 20]);
    let request = world
        .request("POST", OPENAI)
        .body(large.into())
        .expect("valid");
    // The answer comes before the body has been read, which some clients see as a broken pipe.
    if let Ok(response) = world.open(request).await {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(world.simulator.counts().creates, 4);
}

#[tokio::test(start_paused = true)]
async fn a_form_creates_a_task_and_a_remix_points_back_to_it() {
    let world = World::new().await;
    let field = |name: &str, value: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = [
        field("model", "sora-2-pro"),
        field("seconds", "12"),
        field("input_reference\"; filename=\"a.png", &"x".repeat(1 << 20)),
        "--B--\r\n".to_owned(),
    ];
    let request = world
        .request("POST", OPENAI)
        .header("content-type", "multipart/form-data; boundary=B")
        .body(form.concat().into());
    let created = world.send(request.expect("valid")).await.json();
    assert_eq!(
        (text(&created["model"]), text(&created["seconds"])),
        ("sora-2-pro", "12")
    );
    let id = text(&created["id"]);
    let path = format!("{OPENAI}/{id}/remix");
    let remix = world.post(&path, &json!({"prompt": "more"})).await.json();
    assert_eq!(remix["remixed_from_video_id"], id);
    let remix = world
        .get(&format!("{OPENAI}/{}", text(&remix["id"])))
        .await
        .json();
    assert_eq!(remix["remixed_from_video_id"], id);
    let missing = world.post("/v1/videos/none/remix", &json!({})).await;
    assert_eq!(missing.json()["code"], "task_not_exist");
}
