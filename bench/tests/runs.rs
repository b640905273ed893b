//! Whole runs over real sockets, against a server that does right, wrong, or nothing for a while.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may fail")]

mod world;

use bench::clock::{self, MILLISECOND};
use bench::{Config, Control, Report, Scenario, Watch};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use world::{Faults, World};

const DIRECT: Scenario = Scenario::Direct { connections: 8 };
const GROUP: Scenario = Scenario::Group { groups: 2, members: 5, senders: 2 };

fn config(world: &World, scenario: Scenario) -> Config {
    let mut config = Config::new(world.address, scenario);
    config.rate = 1_000.0;
    config.warmup = 50 * MILLISECOND;
    config.duration = 300 * MILLISECOND;
    config.drain = 400 * MILLISECOND;
    // The machine that runs tests may be busy, and its lateness is not what is tested.
    config.offer_lag_max = u64::MAX;
    config
}

fn run(faults: Faults, scenario: Scenario) -> Report {
    let world = World::start(faults);
    bench::run(config(&world, scenario), &Arc::default(), Watch::default()).unwrap()
}

#[test]
fn pairs_are_served_and_checked() {
    let report = run(Faults::default(), DIRECT);
    assert!(report.is_clean(), "{report}");
    assert!(report.counts.delivered > 200, "{report}");
    assert_eq!(report.counts.acked, report.counts.delivered);
    assert_eq!(report.delivered.total.count, report.sent.total.count);
}

#[test]
fn every_member_of_a_group_gets_every_message() {
    let report = run(Faults::default(), GROUP);
    assert!(report.is_clean(), "{report}");
    assert!(report.counts.acked > 200, "{report}");
    assert_eq!(report.counts.delivered, 4 * report.counts.acked);
}

#[test]
fn two_rings_share_the_users() {
    let world = World::start(Faults::default());
    let mut config = config(&world, GROUP);
    config.rings_count = 2;
    let report = bench::run(config, &Arc::default(), Watch::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts.delivered, 4 * report.counts.acked);
}

#[test]
fn a_server_that_loses_messages_is_caught() {
    for scenario in [DIRECT, GROUP] {
        let report = run(Faults { lose: Some(50), ..Faults::default() }, scenario);
        assert!(!report.is_clean());
        assert!(report.verdict.lost > 0, "{report}");
    }
}

#[test]
fn a_server_that_repeats_messages_is_caught() {
    for scenario in [DIRECT, GROUP] {
        let report = run(Faults { repeat: Some(50), ..Faults::default() }, scenario);
        assert!(report.verdict.duplicated > 0, "{report}");
        assert_eq!(report.verdict.lost, 0, "{report}");
    }
}

#[test]
fn a_refusal_is_counted_and_is_no_loss() {
    let report = run(Faults { refuse: Some(10), ..Faults::default() }, DIRECT);
    assert!(report.is_clean(), "{report}");
    assert!(report.counts.refused > 10 && report.rates.goodput < 0.95, "{report}");
}

#[test]
fn a_run_survives_a_server_that_goes_away() {
    for faults in [Faults::default(), Faults { refuse: Some(7), ..Faults::default() }] {
        let world = World::start(faults);
        let mut config = config(&world, DIRECT);
        config.survives_restart = true;
        config.duration = 600 * MILLISECOND;
        config.drain = 4_000 * MILLISECOND;
        let control = Arc::new(Control::default());
        let watching = Arc::clone(&control);
        let thread =
            std::thread::spawn(move || bench::run(config, &watching, Watch::default()).unwrap());
        for _ in 0..2 {
            let enough = control.acked.load(Ordering::Relaxed) + 100;
            while control.acked.load(Ordering::Relaxed) < enough && !thread.is_finished() {
                clock::pause(MILLISECOND);
            }
            world.fall();
            clock::pause(50 * MILLISECOND);
            world.rise();
        }
        let report = thread.join().unwrap();
        assert!(report.is_clean(), "{report}");
        assert!(report.counts.resumed >= 8, "{report}");
        assert!(report.counts.redelivered > 0, "receipts lag behind: {report}");
        assert_eq!(report.counts.offered, report.counts.acked + report.counts.refused);
    }
}

#[test]
fn idle_connections_are_kept() {
    let world = World::start(Faults::default());
    let mut config = config(&world, Scenario::Idle { connections: 20 });
    config.drain = 0;
    let report = bench::run(config, &Arc::default(), Watch::default()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts.disconnects, 0);
}
