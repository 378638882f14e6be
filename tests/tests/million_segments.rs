//! Planning over an archive of a million segments: few requests, and the right answers.

use std::time::Duration;

use pitr_postgres::plan::{PlanError, StopAt, plan};
use pitr_postgres::{Lsn, Target};
use pitr_tests::endless::{
    DAY, EndlessStore, Oddities, SEGMENTS, commit_at, commit_time, endless, endless_with, position,
    xid,
};
use tokio::time::Instant;

async fn requests(store: &EndlessStore, work: impl Future<Output = ()>) -> u64 {
    let before = store.requests();
    work.await;
    store.requests() - before
}

#[tokio::test]
async fn a_time_among_a_million_segments_is_planned_in_under_200_requests() {
    let (store, reading) = endless().await;
    for page in [90_000, 500_000, 777_777, SEGMENTS - 2] {
        let count = requests(&store, async {
            let target = Target::Time(commit_time(page) + 1);
            let plan = plan(&reading, &target, false, None).await.unwrap();
            assert_eq!(
                plan.stop,
                StopAt::Record {
                    lsn: Lsn(commit_at(page + 1)),
                    inclusive: false
                }
            );
            assert_eq!(plan.last_commit, Some(commit_time(page)));
            assert_eq!(plan.first_left_out, Some(commit_time(page + 1)));
            assert!(
                plan.log_segments() <= DAY + 1,
                "the newest base before the target is taken"
            );
        })
        .await;
        assert!(count < 200, "{count} requests for page {page}");
    }
}

#[tokio::test]
async fn the_exact_time_of_a_commit_includes_it_and_before_leaves_it_out() {
    let (_, reading) = endless().await;
    let target = Target::Time(commit_time(654_321));
    let inclusive = plan(&reading, &target, false, None).await.unwrap();
    assert_eq!(
        inclusive.stop,
        StopAt::Record {
            lsn: Lsn(commit_at(654_322)),
            inclusive: false
        }
    );
    let before = plan(&reading, &target, true, None).await.unwrap();
    assert_eq!(
        before.stop,
        StopAt::Record {
            lsn: Lsn(commit_at(654_321)),
            inclusive: false
        }
    );
}

#[tokio::test]
async fn latest_and_an_lsn_are_planned_in_under_200_requests() {
    let (store, reading) = endless().await;
    let lsn = Lsn(commit_at(333_333));
    for target in [Target::Latest, Target::Lsn(lsn), Target::Immediate] {
        let count = requests(&store, async {
            let plan = plan(&reading, &target, false, None).await.unwrap();
            match target {
                Target::Lsn(_) => assert_eq!(
                    plan.stop,
                    StopAt::Record {
                        lsn,
                        inclusive: true
                    }
                ),
                Target::Immediate => assert_eq!(plan.stop, StopAt::Consistency),
                _ => {
                    let last = Lsn(commit_at(SEGMENTS - 1) + 40);
                    assert_eq!(
                        plan.stop,
                        StopAt::Record {
                            lsn: last,
                            inclusive: true
                        }
                    );
                }
            }
        })
        .await;
        assert!(count < 200, "{count} requests for {target}");
    }
}

/// The clock runs ahead: what is asked at once takes a second in all.
#[tokio::test(start_paused = true)]
async fn a_plan_takes_few_rounds_however_far_away_the_store_is() {
    let far = Oddities {
        delay: Duration::from_secs(1),
        ..Oddities::default()
    };
    let (_, reading) = endless_with(&[(100, 60), (999_000, 60)], far).await;
    for (target, rounds) in [
        (Target::Immediate, 6),
        (Target::Latest, 8),
        (Target::Time(commit_time(999_500)), 20),
    ] {
        let began = Instant::now();
        plan(&reading, &target, false, None).await.unwrap();
        let took = began.elapsed().as_secs();
        assert!(took <= rounds, "{took} rounds for {target}");
    }
}

#[tokio::test]
async fn a_transaction_is_planned_in_under_200_requests() {
    let (store, reading) = endless().await;
    for page in [90_000, 333_333, 777_777, SEGMENTS - 2] {
        for before in [false, true] {
            let count = requests(&store, async {
                let target = Target::Xid(xid(page));
                let plan = plan(&reading, &target, before, None).await.unwrap();
                let lsn = Lsn(commit_at(page));
                let inclusive = !before;
                assert_eq!(plan.stop, StopAt::Record { lsn, inclusive });
            })
            .await;
            assert!(count < 200, "{count} requests for page {page}");
        }
    }
}

#[tokio::test]
async fn what_lies_outside_is_refused_with_the_nearest_moment() {
    let (_, reading) = endless().await;
    for (target, nearest_is_before) in [
        (Target::Time(commit_time(50)), false),
        (Target::Lsn(Lsn(commit_at(50))), false),
        (Target::Time(commit_time(SEGMENTS)), true),
        (Target::Lsn(Lsn(position(SEGMENTS) + 1)), true),
    ] {
        match plan(&reading, &target, false, None).await {
            Err(PlanError::Unreachable {
                nearest_before,
                nearest_after,
                ..
            }) => {
                assert_eq!(nearest_before.is_some(), nearest_is_before, "{target}");
                assert_eq!(nearest_after.is_some(), !nearest_is_before, "{target}");
            }
            other => panic!("{target}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_base_that_holds_what_came_after_the_target_is_not_taken() {
    // No transaction ends while it is taken, so no stop lies inside it that could give it away.
    let (_, reading) = endless_with(&[(100, 0)], Oddities::default()).await;
    let before = Target::Time(commit_time(100) - 1);
    match plan(&reading, &before, false, None).await {
        Err(PlanError::Unreachable { nearest_after, .. }) => assert!(nearest_after.is_some()),
        other => panic!("{other:?}"),
    }
    let at = Target::Time(commit_time(100));
    let plan = plan(&reading, &at, false, None).await.unwrap();
    assert_eq!(
        plan.stop,
        StopAt::Record {
            lsn: Lsn(commit_at(101)),
            inclusive: false
        }
    );
}

#[tokio::test]
async fn latest_is_planned_while_a_daemon_always_has_puts_under_way() {
    let oddities = Oddities {
        is_busy: true,
        ..Oddities::default()
    };
    let (store, reading) = endless_with(&[(100, 60)], oddities).await;
    let found = plan(&reading, &Target::Latest, false, None).await.unwrap();
    assert!(matches!(
        found.stop,
        StopAt::Record {
            inclusive: true,
            ..
        }
    ));
    assert!(store.requests() < 3_000, "{} requests", store.requests());
}

#[tokio::test]
async fn no_plan_leads_past_a_record_that_came_damaged_but_from_a_base_behind_it() {
    let page = 5_000;
    let oddities = Oddities {
        damaged_page: Some(page),
        ..Oddities::default()
    };
    let (store, reading) = endless_with(&[(100, 60)], oddities).await;
    let count = requests(&store, async {
        for target in [
            Target::Latest,
            Target::Time(commit_time(page)),
            Target::Lsn(Lsn(commit_at(page) + 8)),
        ] {
            match plan(&reading, &target, false, None).await {
                Err(PlanError::Unreachable {
                    reason,
                    nearest_before,
                    ..
                }) => {
                    let lsn = Lsn(commit_at(page));
                    assert!(reason.contains(&format!("lsn:{lsn}")), "{reason}");
                    let before = nearest_before.expect("what lies before it can be restored");
                    assert_eq!(before.time, Some(commit_time(page - 1)), "{target}");
                }
                other => panic!("{target}: {other:?}"),
            }
        }
    })
    .await;
    assert!(count < 400, "{count} requests for three plans");
    let target = Target::Time(commit_time(page - 1) + 1);
    let refused = plan(&reading, &target, false, None).await;
    assert!(refused.is_err(), "what ended next is not known");
    let (_, reading) = endless_with(&[(100, 60), (6_000, 60)], oddities).await;
    let found = plan(&reading, &Target::Latest, false, None).await.unwrap();
    assert!(found.path[0].from > Lsn(commit_at(page)));
    let target = Target::Time(commit_time(5_500));
    assert!(plan(&reading, &target, false, None).await.is_err());
    let target = Target::Time(commit_time(4_000));
    plan(&reading, &target, false, None).await.unwrap();
}
