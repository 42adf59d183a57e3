//! The rules, one by one.

use std::time::{Duration, Instant};

use super::*;

const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
/// How long an engine that has died pauses.
const PAUSE: Duration = Duration::from_secs(4);

/// A core with its clock, engines that obey at once when told to, and what happened.
struct Bench {
    core: Core,
    now: Instant,
    generations: BTreeMap<EngineId, u64>,
    tickets: Ticket,
}

fn rules() -> Rules {
    Rules {
        max_queue: 512,
        max_loaded: 0,
        max_wait: 30 * SECOND,
        min_residence: 10 * SECOND,
        linger: SECOND / 2,
        sleeping_memory: 16 * GIB,
    }
}

fn needs(gibibytes: u64) -> Needs {
    Needs { bytes: gibibytes * GIB, devices: 1, concurrency: 2, sleeps: None, start: 60 * SECOND }
}

impl Bench {
    /// Engines 0, 1, 2 … with these needs, and devices with these budgets in GiB.
    fn new(rules: Rules, devices: &[u64], engines: &[Needs]) -> Self {
        let now = Instant::now();
        let mut core = Core::new(rules, devices.iter().map(|budget| Some(budget * GIB)).collect());
        for (id, needs) in engines.iter().enumerate() {
            core.add(id as EngineId, *needs, KeepAlive::Forever, now);
        }
        Self { core, now, generations: BTreeMap::new(), tickets: 0 }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.core.handle(event, self.now)
    }

    fn ask(&mut self, engine: EngineId) -> Vec<Action> {
        self.ask_for(engine, None)
    }

    fn ask_for(&mut self, engine: EngineId, keep_alive: Option<KeepAlive>) -> Vec<Action> {
        let ticket = self.tickets;
        self.tickets += 1;
        self.tell(Event::Request { ticket, engine, keep_alive, patience: None })
    }

    fn ask_within(&mut self, engine: EngineId, patience: Duration) -> Vec<Action> {
        let ticket = self.tickets;
        self.tickets += 1;
        self.tell(Event::Request { ticket, engine, keep_alive: None, patience: Some(patience) })
    }

    fn report(&mut self, engine: EngineId, stage: Stage) -> Vec<Action> {
        let generation = self.generations.entry(engine).or_default();
        *generation += u64::from(stage == Stage::Starting);
        let failure = (stage == Stage::Failed).then(|| "no memory".to_owned());
        let paused_until = (stage == Stage::Restarting).then_some(self.now + PAUSE);
        let report = Report { stage, generation: *generation, paused_until, failure };
        self.tell(Event::Report { engine, report })
    }

    /// The engine has obeyed an order to start.
    fn started(&mut self, engine: EngineId) -> Vec<Action> {
        self.report(engine, Stage::Starting);
        self.report(engine, Stage::Ready)
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.tell(Event::Time)
    }

    /// Engine 0 is up and idle, past its residence.
    fn with_idle_first(mut self) -> Self {
        assert_eq!(self.ask(0), [Action::Start(0, vec![0])]);
        assert_eq!(self.started(0), [Action::Grant(0, 0)]);
        assert_eq!(self.tell(Event::Released(0)), []);
        assert_eq!(self.after(20 * SECOND), []);
        self
    }
}

fn refused(actions: &[Action]) -> Option<&Refusal> {
    match actions {
        [Action::Refuse(_, refusal)] => Some(refusal),
        _ => None,
    }
}

#[test]
fn two_models_that_fit_are_up_together_but_start_one_after_the_other() {
    let mut bench = Bench::new(rules(), &[10], &[needs(4), needs(4)]);
    assert_eq!(bench.ask(0), [Action::Start(0, vec![0])]);
    assert_eq!(bench.ask(1), [], "another engine is starting");
    assert_eq!(bench.started(0), [Action::Start(1, vec![0]), Action::Grant(0, 0)]);
    assert_eq!(bench.started(1), [Action::Grant(1, 1)]);
}

#[test]
fn an_idle_engine_goes_for_another_model() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    assert_eq!(bench.ask(1), [Action::Stop(0)]);
    assert_eq!(bench.report(0, Stage::Down), [Action::Start(1, vec![0])]);
}

#[test]
fn an_idle_engine_keeps_its_place_until_its_residence_is_over() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]);
    bench.ask(0);
    bench.started(0);
    bench.tell(Event::Released(0));
    assert_eq!(bench.ask(1), []);
    assert_eq!(bench.core.look_at(), Some(bench.now + 10 * SECOND));
    assert_eq!(bench.after(9 * SECOND), []);
    assert_eq!(bench.after(SECOND), [Action::Stop(0)]);
}

#[test]
fn the_gap_between_two_requests_of_one_client_is_no_idleness() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    bench.ask(0);
    assert_eq!(bench.ask(1), []);
    for _ in 0..20 {
        assert_eq!(bench.tell(Event::Released(0)), []);
        assert_eq!(bench.after(SECOND / 4), []);
        assert!(matches!(bench.ask(0)[..], [Action::Grant(_, 0)]));
        assert_eq!(bench.after(SECOND / 2), []);
    }
}

#[test]
fn after_the_longest_wait_new_requests_queue_running_ones_finish_and_then_it_is_swapped() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    assert_eq!(bench.ask(0), [Action::Grant(1, 0)]);
    assert_eq!(bench.ask(1), []);
    bench.after(29 * SECOND);
    assert_eq!(bench.ask(0), [Action::Grant(3, 0)], "nobody has waited too long yet");
    assert_eq!(bench.tell(Event::Released(0)), []);
    bench.after(SECOND);
    assert_eq!(bench.ask(0), [], "the gate is shut");
    assert_eq!(bench.tell(Event::Released(0)), [Action::Stop(0)], "the last running one has finished");
    assert_eq!(bench.report(0, Stage::Down), [Action::Start(1, vec![0])]);
    assert_eq!(bench.started(1), [Action::Grant(2, 1)]);
}

#[test]
fn an_engine_serves_those_it_was_loaded_for_before_it_goes() {
    let mut bench = Bench::new(rules(), &[10], &[Needs { concurrency: 1, ..needs(6) }, needs(6)]);
    for _ in 0..3 {
        bench.ask(0);
    }
    bench.ask(1);
    bench.after(60 * SECOND);
    assert_eq!(bench.started(0), [Action::Grant(0, 0)]);
    bench.after(60 * SECOND);
    assert_eq!(bench.ask(0), [], "came too late");
    assert_eq!(bench.tell(Event::Released(0)), [Action::Grant(1, 0)]);
    assert_eq!(bench.tell(Event::Released(0)), [Action::Grant(2, 0)]);
    assert_eq!(bench.tell(Event::Released(0)), [Action::Stop(0)]);
}

#[test]
fn when_the_one_who_waited_gives_up_the_gate_opens_again() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    bench.ask(0);
    bench.ask(1);
    bench.after(31 * SECOND);
    assert_eq!(bench.ask(0), []);
    assert_eq!(bench.tell(Event::GivenUp { ticket: 2, engine: 1 }), [Action::Grant(3, 0)]);
}

#[test]
fn the_least_recently_used_engine_goes_first_and_no_more_than_needed() {
    let mut bench = Bench::new(rules(), &[10], &[needs(3), needs(3), needs(3), needs(4)]);
    for engine in [0, 1, 2] {
        bench.ask(engine);
        bench.started(engine);
        bench.tell(Event::Released(engine));
    }
    bench.after(20 * SECOND);
    bench.ask(0);
    bench.tell(Event::Released(0));
    bench.after(20 * SECOND);
    assert_eq!(bench.ask(3), [Action::Stop(1)], "1 GiB is free, and the first engine was used after the second");
}

#[test]
fn requests_beyond_the_concurrency_of_the_plan_wait_in_order() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]).with_idle_first();
    assert_eq!(bench.ask(0), [Action::Grant(1, 0)]);
    assert_eq!(bench.ask(0), [Action::Grant(2, 0)]);
    assert_eq!((bench.ask(0), bench.ask(0)), (vec![], vec![]));
    assert_eq!(bench.tell(Event::Released(0)), [Action::Grant(3, 0)]);
    assert_eq!(bench.tell(Event::Released(0)), [Action::Grant(4, 0)]);
}

#[test]
fn all_waiting_requests_together_are_bounded_and_the_refusal_says_when_to_come_back() {
    let mut bench = Bench::new(Rules { max_queue: 2, ..rules() }, &[10], &[needs(6), needs(6)]);
    bench.ask(0);
    bench.ask(1);
    bench.after(20 * SECOND);
    let full = bench.ask(0);
    assert_eq!(refused(&full), Some(&Refusal::QueueFull { retry_after: 40 * SECOND }), "what is left of the start");
    let full = bench.ask(1);
    assert_eq!(refused(&full), Some(&Refusal::QueueFull { retry_after: 100 * SECOND }), "and its own start");
    bench.started(0);
    assert!(matches!(bench.ask(0)[..], [Action::Grant(..)]), "who need not wait is not refused");
}

#[test]
fn who_would_wait_longer_than_he_is_willing_to_is_told_so_and_finds_the_model_when_he_comes_back() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]);
    let slow = |ticket, seconds| Action::Refuse(ticket, Refusal::TooSlow { retry_after: seconds * SECOND });
    assert_eq!(bench.ask_within(0, 59 * SECOND), [slow(0, 60), Action::Start(0, vec![0])], "it is loaded all the same");
    assert_eq!(bench.report(0, Stage::Starting), []);
    assert_eq!(bench.after(20 * SECOND), []);
    assert_eq!(bench.ask_within(0, 40 * SECOND), [], "so long he waits");
    assert_eq!(bench.report(0, Stage::Ready), [Action::Grant(1, 0)]);
    assert_eq!(bench.ask_within(0, Duration::ZERO), [Action::Grant(2, 0)], "nobody waits for an engine that is free");
    assert!(matches!(refused(&bench.ask_within(0, Duration::ZERO)), Some(Refusal::TooSlow { .. })), "it is busy");
    assert_eq!(bench.ask_within(0, SECOND), [], "not for long, as far as is known");
    let other = bench.ask_within(1, 59 * SECOND);
    assert_eq!(other[0], slow(5, 60));
    assert_eq!(bench.after(SECOND), [slow(4, 1)], "it took longer");
    assert_eq!(bench.after(1000 * SECOND), [], "nobody in use is displaced for one who does not wait");
}

#[test]
fn who_has_waited_as_long_as_he_is_willing_to_is_told_so_whatever_was_known_before() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]);
    let slow = |ticket, seconds| Action::Refuse(ticket, Refusal::TooSlow { retry_after: seconds * SECOND });
    assert_eq!(bench.ask_within(0, 70 * SECOND), [Action::Start(0, vec![0])]);
    bench.report(0, Stage::Starting);
    assert_eq!((bench.ask(0), bench.core.look_at()), (vec![], Some(bench.now + 70 * SECOND)));
    assert_eq!(bench.after(69 * SECOND), [], "the start takes longer than the ones before");
    assert_eq!(bench.after(SECOND), [slow(0, 1)]);
    assert_eq!(bench.report(0, Stage::Ready), [Action::Grant(1, 0)], "who said nothing waits on");
    // The other model gets no place as long as the first one works, and nobody knows how long that is.
    assert_eq!(bench.ask_within(1, 60 * SECOND), []);
    let told = bench.after(60 * SECOND);
    assert_eq!(told, [slow(2, 60)]);
    bench.tell(Event::Released(0));
    let later: Vec<_> = (0..3).flat_map(|_| bench.after(20 * SECOND)).collect();
    assert_eq!(later, [Action::Stop(0)], "it is loaded all the same once that displaces nobody in use");
}

#[test]
fn who_gets_his_lease_at_the_last_moment_is_not_refused() {
    let mut bench = Bench::new(rules(), &[10], &[Needs { concurrency: 1, ..needs(6) }]);
    bench.ask_within(0, 60 * SECOND);
    bench.ask_within(0, 60 * SECOND);
    bench.report(0, Stage::Starting);
    bench.now += 60 * SECOND;
    let told = bench.report(0, Stage::Ready);
    assert_eq!(told, [Action::Refuse(1, Refusal::TooSlow { retry_after: SECOND }), Action::Grant(0, 0)]);
}

#[test]
fn the_pause_after_a_death_is_part_of_the_wait() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]).with_idle_first();
    bench.report(0, Stage::Restarting);
    let refusal = |seconds| Refusal::TooSlow { retry_after: seconds * SECOND };
    assert_eq!(refused(&bench.ask_within(0, 63 * SECOND)), Some(&refusal(64)));
    bench.after(3 * SECOND);
    assert_eq!(refused(&bench.ask_within(0, 60 * SECOND)), Some(&refusal(61)));
    assert_eq!(bench.ask_within(0, 61 * SECOND), []);
}

#[test]
fn a_model_that_would_not_stay_until_the_client_is_back_is_waited_for() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]);
    bench.core.set_keep_alive(0, KeepAlive::For(Duration::ZERO), bench.now);
    assert_eq!(bench.ask_within(0, SECOND), [Action::Start(0, vec![0])]);
    assert_eq!(bench.started(0), [Action::Grant(0, 0)]);
}

#[test]
fn a_model_that_is_on_its_way_out_comes_back_for_one_who_does_not_wait() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]).with_idle_first();
    assert_eq!(bench.tell(Event::Unload(0)), [Action::Stop(0)]);
    assert!(matches!(refused(&bench.ask_within(0, SECOND)), Some(Refusal::TooSlow { .. })));
    assert_eq!(bench.report(0, Stage::Down), [Action::Start(0, vec![0])]);
    assert_eq!(bench.started(0), [], "and it stays");
    assert_eq!(bench.after(1000 * SECOND), []);
    assert!(matches!(bench.ask_within(0, SECOND)[..], [Action::Grant(..)]));
}

#[test]
fn a_model_that_never_fits_is_refused_at_once() {
    let mut bench = Bench::new(rules(), &[10], &[needs(11), Needs { devices: 2, ..needs(1) }]);
    let large = bench.ask(0);
    assert_eq!(refused(&large), Some(&Refusal::TooLarge { needs: 11 * GIB, devices: 1, budget: 10 * GIB }));
    let many = bench.ask(1);
    assert_eq!(refused(&many), Some(&Refusal::TooLarge { needs: GIB, devices: 2, budget: 0 }));
}

#[test]
fn whoever_cannot_have_a_place_yet_is_not_overtaken_by_small_models_that_would_keep_it_from_him() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(8), needs(3), needs(1)]).with_idle_first();
    bench.ask(0);
    assert_eq!(bench.ask(1), [], "needs the place of one that is in use");
    assert_eq!(bench.ask(2), [], "would fit now, but not beside the one that came before");
    assert_eq!(bench.ask(3), [Action::Start(3, vec![0])], "fits beside both");
}

#[test]
fn an_engine_that_starts_for_nobody_goes_for_one_that_is_wanted() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]);
    bench.ask(0);
    bench.report(0, Stage::Starting);
    bench.ask(1);
    assert_eq!(bench.tell(Event::GivenUp { ticket: 0, engine: 0 }), []);
    assert_eq!(bench.after(SECOND), [Action::Stop(0)]);
    assert_eq!(bench.report(0, Stage::Down), [Action::Start(1, vec![0])]);
}

#[test]
fn a_load_without_a_request_displaces_nobody_in_use() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    bench.ask(0);
    assert_eq!(bench.tell(Event::Load(1)), []);
    assert_eq!(bench.after(1000 * SECOND), []);
}

#[test]
fn keep_alive_counts_from_the_last_lease_and_sticks() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]);
    bench.ask_for(0, Some(KeepAlive::For(5 * SECOND)));
    bench.started(0);
    bench.ask(0);
    bench.tell(Event::Released(0));
    assert_eq!(bench.after(10 * SECOND), [], "still in use");
    bench.tell(Event::Released(0));
    assert_eq!(bench.after(4 * SECOND), []);
    bench.ask(0);
    bench.tell(Event::Released(0));
    assert_eq!(bench.after(4 * SECOND), [], "counted anew");
    assert_eq!(bench.after(SECOND), [Action::Stop(0)]);
    bench.report(0, Stage::Down);
    bench.ask(0);
    bench.started(0);
    bench.tell(Event::Released(0));
    assert_eq!(bench.after(1000 * SECOND), [], "the next load has the default again");
}

#[test]
fn an_unload_waits_for_running_requests_and_is_forgotten_by_the_next_one() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]).with_idle_first();
    bench.ask(0);
    assert_eq!(bench.tell(Event::Unload(0)), []);
    assert_eq!(bench.tell(Event::Released(0)), [Action::Stop(0)]);
    bench.report(0, Stage::Down);
    bench.ask(0);
    bench.started(0);
    bench.tell(Event::Unload(0));
    bench.ask(0);
    bench.tell(Event::Released(0));
    assert_eq!(bench.tell(Event::Released(0)), []);
}

#[test]
fn a_crash_under_a_lease_keeps_the_place_and_a_failure_for_good_answers_all() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    bench.ask(0);
    bench.ask(1);
    assert_eq!(bench.report(0, Stage::Restarting), []);
    bench.ask(0);
    let actions = bench.report(0, Stage::Failed);
    assert_eq!(actions[0], Action::Refuse(3, Refusal::Broken("no memory".to_owned())));
    assert_eq!(actions[1..], [Action::Start(1, vec![0])], "its memory is free");
    assert_eq!(refused(&bench.ask(0)), Some(&Refusal::Broken("no memory".to_owned())));
}

#[test]
fn what_broke_for_good_is_tried_again_by_a_request_a_minute_later() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]);
    bench.ask(0);
    bench.report(0, Stage::Starting);
    bench.report(0, Stage::Failed);
    bench.after(59 * SECOND);
    assert!(refused(&bench.ask(0)).is_some());
    assert_eq!(bench.after(SECOND), [], "not by itself");
    assert_eq!(bench.ask(0), [Action::Start(0, vec![0])]);
    assert!(matches!(bench.started(0)[..], [Action::Grant(_, 0)]));
}

#[test]
fn no_more_models_are_loaded_than_the_operator_wants() {
    let mut bench = Bench::new(Rules { max_loaded: 1, ..rules() }, &[100], &[needs(6), needs(6)]).with_idle_first();
    assert_eq!(bench.ask(1), [Action::Stop(0)]);
}

#[test]
fn without_figures_one_engine_runs_at_a_time() {
    let mut bench = Bench::new(rules(), &[1], &[needs(6), needs(6)]);
    bench.tell(Event::Devices(vec![None]));
    assert_eq!(bench.ask(0), [Action::Start(0, vec![])]);
    bench.started(0);
    bench.tell(Event::Released(0));
    bench.after(20 * SECOND);
    assert_eq!(bench.ask(1), [Action::Stop(0)]);
    assert_eq!(bench.tell(Event::Devices(vec![Some(80 * GIB)])), [Action::Start(1, vec![0])]);
}

#[test]
fn engines_go_to_the_gpus_with_most_room() {
    let two = Needs { devices: 2, ..needs(30) };
    let mut bench = Bench::new(rules(), &[40, 80, 60], &[needs(30), two, needs(30)]);
    assert_eq!(bench.ask(0), [Action::Start(0, vec![1])]);
    bench.started(0);
    assert_eq!(bench.ask(1), [Action::Start(1, vec![2, 1])]);
    assert_eq!(bench.ask(2), [Action::Start(2, vec![0])], "nothing starts there");
}

#[test]
fn on_a_gpu_an_idle_engine_sleeps_to_make_room_and_wakes_on_request() {
    let sleeper = Needs { sleeps: Some(6 * GIB), ..needs(50) };
    let mut bench = Bench::new(rules(), &[80], &[sleeper, sleeper, sleeper]).with_idle_first();
    assert_eq!(bench.ask(1), [Action::Sleep(0, 1)]);
    assert_eq!(bench.report(0, Stage::Ready), [], "said before the order arrived");
    assert_eq!(bench.report(0, Stage::Asleep(1)), [Action::Start(1, vec![0])]);
    bench.started(1);
    bench.tell(Event::Released(1));
    bench.after(20 * SECOND);
    assert_eq!(bench.ask(2), [Action::Sleep(1, 2)], "the memory for weights that sleep is used up");
    bench.report(1, Stage::Asleep(2));
    bench.started(2);
    bench.tell(Event::Released(2));
    bench.after(20 * SECOND);
    assert_eq!(bench.ask(0), [Action::Sleep(2, 2)]);
    assert_eq!(bench.report(2, Stage::Asleep(2)), [Action::Wake(0)]);
    assert_eq!(bench.report(0, Stage::Asleep(1)), [], "said before the order arrived");
    assert!(matches!(bench.report(0, Stage::Ready)[..], [Action::Grant(_, 0)]));
}

#[test]
fn an_engine_is_stopped_when_there_is_no_main_memory_for_it_to_sleep_in() {
    let sleeper = Needs { sleeps: Some(GIB), ..needs(50) };
    let poor = Rules { sleeping_memory: 2 * GIB, ..rules() };
    let mut bench = Bench::new(poor, &[80], &[sleeper, sleeper]).with_idle_first();
    assert_eq!(bench.ask(1), [Action::Stop(0)]);
}

#[test]
fn sleeping_engines_are_stopped_when_what_they_still_hold_is_in_the_way() {
    let sleeper = Needs { sleeps: Some(GIB), ..needs(50) };
    let mut bench = Bench::new(rules(), &[80], &[sleeper, needs(79)]).with_idle_first();
    assert_eq!(bench.ask(1), [Action::Stop(0)], "asleep it would still hold 2 GiB");
}

#[test]
fn a_wake_that_fails_is_a_restart() {
    let sleeper = Needs { sleeps: Some(GIB), ..needs(50) };
    let mut bench = Bench::new(rules(), &[80], &[sleeper, sleeper]).with_idle_first();
    bench.ask(1);
    bench.report(0, Stage::Asleep(1));
    bench.started(1);
    bench.tell(Event::Released(1));
    bench.after(20 * SECOND);
    bench.ask(0);
    assert_eq!(bench.report(1, Stage::Asleep(1)), [Action::Wake(0)]);
    assert_eq!(bench.report(0, Stage::Restarting), []);
    assert!(matches!(bench.started(0)[..], [Action::Grant(_, 0)]));
}

#[test]
fn a_model_that_is_retired_serves_those_who_asked_before_and_nobody_else() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6)]).with_idle_first();
    bench.ask(0);
    bench.ask(0);
    bench.ask(0);
    assert_eq!(bench.tell(Event::Retire(0)), []);
    assert_eq!(refused(&bench.ask(0)), Some(&Refusal::Retiring));
    assert_eq!(bench.tell(Event::Released(0)), [Action::Grant(3, 0)]);
    bench.tell(Event::Released(0));
    assert_eq!(bench.tell(Event::Released(0)), [Action::Stop(0)]);
    assert_eq!(bench.report(0, Stage::Down), [Action::Retired(0)]);
    assert!(!bench.core.remove(1), "there is no such engine");
    bench.tell(Event::Restored(0));
    assert!(bench.core.remove(0));
}

#[test]
fn a_report_from_before_the_last_order_changes_nothing() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    bench.ask(1);
    assert_eq!(bench.report(0, Stage::Ready), [], "it was told to stop meanwhile");
    bench.report(0, Stage::Down);
    assert_eq!(bench.report(1, Stage::Down), [], "it was told to start meanwhile");
    assert!(matches!(bench.started(1)[..], [Action::Grant(_, 1)]));
}

#[test]
fn the_end_of_vllama_stops_everything_and_answers_everybody() {
    let mut bench = Bench::new(rules(), &[10], &[needs(6), needs(6)]).with_idle_first();
    bench.ask(0);
    bench.ask(1);
    assert_eq!(bench.tell(Event::Close), [Action::Refuse(2, Refusal::ShuttingDown)]);
    assert_eq!(refused(&bench.ask(0)), Some(&Refusal::ShuttingDown));
    assert_eq!(bench.tell(Event::Stop { at_once: false }), [Action::Stop(0)]);
    assert_eq!(bench.tell(Event::Stop { at_once: true }), [Action::Kill(0)]);
    assert!(!bench.core.is_down());
    bench.report(0, Stage::Down);
    assert!(bench.core.is_down());
}

#[test]
fn another_keep_alive_of_the_operator_holds_at_once_but_not_over_one_that_a_request_has_named() {
    let mut bench = Bench::new(rules(), &[10], &[needs(4), needs(4)]).with_idle_first();
    bench.ask_for(1, Some(KeepAlive::For(60 * SECOND)));
    bench.started(1);
    bench.tell(Event::Released(1));
    for engine in [0, 1] {
        bench.core.set_keep_alive(engine, KeepAlive::For(5 * SECOND), bench.now);
    }
    assert_eq!(bench.after(4 * SECOND), []);
    assert_eq!(bench.after(SECOND), [Action::Stop(0)]);
}
