//! Keys: a task is visible to its own key alone.

use pollgate::simulator::{Settings, Status};

use crate::world::{OPENAI, UNIFIED, World};

#[tokio::test(start_paused = true)]
async fn a_task_is_seen_by_its_own_key_only() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    for path in [UNIFIED, OPENAI] {
        let path = format!("{path}/{id}");
        for own in ["Bearer sk-K", "bearer K", "K", "sk-K-12"] {
            assert_eq!(world.as_key(own, &path).await.status, 200, "{own}");
        }
        let foreign = world.as_key("Bearer sk-L", &path).await;
        let missing = world.get(&format!("{path}0")).await;
        for answer in [foreign, missing] {
            assert_eq!(answer.status, 400);
            let body = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
            assert_eq!(answer.body, body);
            assert_eq!(
                answer.header("content-type"),
                "application/json; charset=utf-8"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_missing_unknown_or_revoked_is_unauthorised() {
    let world = World::with(Settings {
        keys: vec!["sk-K".to_owned()],
        ..Settings::default()
    })
    .await;
    let id = world.held("kling", Status::InProgress);
    let path = format!("{UNIFIED}/{id}");
    assert_eq!(world.get(&path).await.status, 200);
    assert_eq!(world.as_key("Bearer sk-L", &path).await.status, 401);
    assert_eq!(world.as_key("Bearer ", &path).await.status, 401);
    world.simulator.revoke("K");
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 401);
    let request_id = answer.header("x-oneapi-request-id");
    let body = format!(
        r#"{{"error":{{"code":"","message":"Invalid token (request id: {request_id})","type":"new_api_error"}}}}"#
    );
    assert_eq!(answer.body, body);
    world.simulator.restore("sk-K-1");
    assert_eq!(world.get(&path).await.status, 200);
}
