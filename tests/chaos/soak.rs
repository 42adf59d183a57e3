//! A load that never stops, while things go wrong at random: what vllama holds must not grow.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::faults::{self, Deck, Effect, Fault, Phase};
use super::ground::{Ground, Usage};
use super::load::{Counts, Load};
use super::narrow::Narrow;
use super::rounds::REPLAYS;
use super::strike::World;
use super::zombies::Zombies;
use crate::harness::Vllama;

/// Clients that ask all the time.
const CLIENTS: u64 = 8;
/// Time between two looks at what vllama holds.
const LOOK: Duration = Duration::from_millis(250);
/// Of the looks in this time the lowest value counts: clients come and go, what is lost stays.
const BUCKET: Duration = Duration::from_secs(5);
/// Longest quiet time between two faults, in milliseconds.
const QUIET: u64 = 1500;

/// Soaks a vllama for this long, prints what was seen and checks it.
pub async fn run(time: Duration, seed: u64, narrow: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let zombies = Zombies::watch();
    let world = World::start(narrow.then(Narrow::new)).await;
    zombies.watch_children_of(world.vllama.pid());
    let ground = Ground::of(&world.vllama);
    // The others need a quiet engine, and the tracker is missed only when an engine stops.
    let bearable = |fault: &Fault| {
        matches!(fault.phase(), None | Some(Phase::Streaming))
            && !matches!(fault, Fault::TermIgnored | Fault::Tracker | Fault::FullSharedMemory)
    };
    let mut deck = Deck::new(faults::all(narrow).into_iter().filter(bearable).collect());
    let load = Load::start(&world.vllama.client, CLIENTS, random.u64(..), &world.ledger);
    let is_over = AtomicBool::new(false);
    let strikes = async {
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(random.u64(..QUIET))).await;
            let fault = deck.deal(&mut random);
            if fault.effect() != Effect::Bearable {
                world.rested().await;
            }
            let old = world.generation().await;
            let full = world.strike(fault, &mut random).await;
            world.answered(fault, old).await;
            drop(full);
            number += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        number
    };
    let (strikes, seen) = tokio::join!(strikes, look(&world.vllama, &is_over));
    load.end().await;
    ground.check(&world.vllama, "the soak").await;
    let World { vllama, ledger, .. } = &world;
    let convicted = vllama.stderr().iter().filter(|line| line.contains("has died of a request")).count();
    let counts = ledger.count_with(&vllama.path("requests"), 1 + REPLAYS + convicted);
    let Counts { sent, answered, replayed, failed, left, lost } = counts;
    println!(
        "{:.0} s, {strikes} faults, {} starts of engines",
        seen.len() as f64 * LOOK.as_secs_f64(),
        vllama.starts()
    );
    println!(
        "requests: {sent} sent, {answered} answered, {replayed} replayed, {failed} refused or broken off with a reason, \
         {left} given up by clients, {lost} lost"
    );
    let zombies = zombies.found();
    println!("zombies older than 100 ms: {}", zombies.len());
    let flat = flatness(&seen);
    assert_eq!((lost, zombies.len()), (0, 0), "{zombies:?}");
    assert_eq!(sent, answered + failed + left);
    assert!(flat, "what vllama holds grows");
    world.vllama.stop().await;
}

/// Looks at what vllama holds until it is over.
async fn look(vllama: &Vllama, is_over: &AtomicBool) -> Vec<Usage> {
    let mut seen = Vec::new();
    let mut tick = tokio::time::interval(LOOK);
    while !is_over.load(Ordering::Relaxed) {
        tick.tick().await;
        seen.push(Usage::of(vllama));
    }
    seen
}

/// Whether the lowest values of the second half lie on a line that does not rise, or by less than clients and the
/// allocator make it swing; prints it.
fn flatness(seen: &[Usage]) -> bool {
    let measures = [
        ("descriptors", seen.iter().map(|usage| usage.descriptors as f64).collect::<Vec<_>>(), 8.0),
        ("threads", seen.iter().map(|usage| usage.threads as f64).collect(), 4.0),
        ("resident MiB", seen.iter().map(|usage| usage.memory as f64 / f64::from(1 << 20)).collect(), 4.0),
    ];
    println!(
        "| | at the start | lowest in the second half, first and last 5 s | rise over the second half | allowed |"
    );
    println!("|---|---|---|---|---|");
    let mut flat = true;
    let looks = (BUCKET.as_millis() / LOOK.as_millis()) as usize;
    for (name, values, allowed) in measures {
        let half = values[values.len() / 2..].chunks_exact(looks);
        let half: Vec<f64> = half.map(|bucket| bucket.iter().copied().fold(f64::INFINITY, f64::min)).collect();
        let rise = rise(&half);
        let [first, last] = [half.first(), half.last()].map(|value| value.copied().unwrap_or_default());
        println!("| {name} | {:.1} | {first:.1}, {last:.1} | {rise:.1} | {allowed} |", values[0]);
        flat &= rise <= allowed;
    }
    flat
}

/// How much the straight line through these values, the nearest in the sense of least squares, rises from the first to
/// the last.
fn rise(values: &[f64]) -> f64 {
    let number = values.len() as f64;
    let middle = [(number - 1.0) / 2.0, values.iter().sum::<f64>() / number];
    let (mut across, mut along) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let distance = index as f64 - middle[0];
        across += distance * (value - middle[1]);
        along += distance * distance;
    }
    if along > 0.0 { across / along * (number - 1.0) } else { 0.0 }
}
