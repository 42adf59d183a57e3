//! Tests of the rules of long prompts.

use super::*;
use crate::api::ollama::json;
use crate::api::ollama::messages::turns;
use crate::api::ollama::types::ChatRequest;
use crate::model::Card;

const DEFAULTS: (Option<bool>, Option<bool>) = (None, None);
const NO_SHIFT: (Option<bool>, Option<bool>) = (None, Some(false));

fn window(num_ctx: u64, settings: (Option<bool>, Option<bool>), num_predict: Option<u64>) -> Window {
    Window::new(Some(num_ctx), 8192, settings, num_predict)
}

#[test]
fn the_engine_bounds_the_context_and_four_tokens_are_the_least() {
    assert_eq!(window(128, DEFAULTS, None).longest(), 128);
    assert_eq!(window(1, DEFAULTS, None).longest(), 4);
    for full in [window(8192, DEFAULTS, None), window(1 << 40, DEFAULTS, None), Window::new(None, 8192, DEFAULTS, None)]
    {
        assert!(full.is_the_engines());
        assert_eq!(full.longest(), 8191, "one token is for the answer");
    }
}

#[test]
fn nobody_counts_what_fits_for_certain() {
    assert!(window(128, DEFAULTS, None).surely_holds(128) && !window(128, DEFAULTS, None).surely_holds(129));
}

#[test]
fn what_is_shortened_leaves_room_for_an_answer_in_a_full_engine_only() {
    for (window, goal) in [
        (window(128, DEFAULTS, None), 128),
        (window(8000, DEFAULTS, Some(100)), 8000),
        (window(8192, DEFAULTS, None), 6144),
        (window(8192, DEFAULTS, Some(100)), 8092),
        (window(8192, DEFAULTS, Some(100_000)), 4096),
        (window(8192, NO_SHIFT, None), 8191),
    ] {
        assert_eq!(window.goal(), goal, "{window:?}");
    }
    // However small an engine is, there is no underflow.
    assert_eq!(Window::new(None, 1, DEFAULTS, None).goal(), 0);
}

#[test]
fn without_shift_prompt_and_answer_share_the_context_and_with_it_the_answer_may_outgrow_it() {
    assert!(window(128, NO_SHIFT, None).limits_the_sum(10));
    assert!(
        window(128, NO_SHIFT, Some(120)).limits_the_sum(10) && !window(128, NO_SHIFT, Some(118)).limits_the_sum(10)
    );
    assert!(!window(128, DEFAULTS, None).limits_the_sum(10) && !window(8192, NO_SHIFT, None).limits_the_sum(10));
    for (window, prompt, answer) in [
        (window(128, NO_SHIFT, None), Some(100), Some(28)),
        (window(128, NO_SHIFT, Some(5)), Some(100), Some(28)),
        (window(128, NO_SHIFT, None), Some(128), Some(1)),
        (window(128, DEFAULTS, None), Some(100), Some(1280)),
        (window(128, DEFAULTS, Some(3000)), None, None),
        (window(4096, DEFAULTS, None), None, None),
        (window(8192, NO_SHIFT, None), Some(8000), None),
    ] {
        assert_eq!(window.answer(prompt), answer, "{window:?}");
    }
}

#[test]
fn truncate_and_shift_say_what_may_go() {
    for (settings, messages, tokens) in [
        (DEFAULTS, true, true),
        ((Some(false), None), false, false),
        (NO_SHIFT, true, false),
        ((Some(false), Some(false)), false, false),
    ] {
        let window = window(128, settings, None);
        assert_eq!((window.drops_messages(), window.cuts()), (messages, tokens), "{settings:?}");
    }
}

/// The turns of a conversation of these roles.
fn with_turns(roles: &str, look: impl FnOnce(&[Turn<'_>])) {
    let message = |role: char| {
        let name = match role {
            's' => "system",
            'a' => "assistant",
            't' => "tool",
            _ => "user",
        };
        format!(r#"{{"role":"{name}","content":"12345"}}"#)
    };
    let messages: Vec<String> = roles.chars().map(message).collect();
    let body = format!(r#"{{"messages":[{}]}}"#, messages.join(","));
    let request: ChatRequest = json::decode(&body).expect("the test's JSON");
    look(&turns(&request.messages, &Card::default()).expect("turns"));
}

#[test]
fn a_conversation_begins_anew_with_a_user_and_keeps_its_system_prompts_and_its_end() {
    for (roles, places) in [
        ("u", &[][..]),
        ("su", &[]),
        ("suauau", &[3, 5]),
        ("uatau", &[4]),
        // A system prompt in the middle stays wherever the conversation begins.
        ("uasu", &[3]),
        // An agent at work has one user and many calls.
        ("uatatat", &[1, 3, 5, 6]),
        ("aaa", &[1, 2]),
        ("ss", &[]),
    ] {
        with_turns(roles, |turns| assert_eq!(beginnings(turns), places, "{roles}"));
    }
    with_turns("suasau", |turns| {
        let roles: Vec<&str> = from(turns, 5).map(Turn::role).collect();
        assert_eq!(roles, ["system", "system", "user"]);
    });
}

#[test]
fn the_bound_is_above_what_any_tokenizer_makes_of_it() {
    with_turns("ua", |turns| assert_eq!(bound(turns, 100), 2 * (5 + 16) + 100));
    let body = r#"{"messages":[{"role":"user","content":"abc","images":["AA==","AA=="]}]}"#;
    let request: ChatRequest = json::decode(body).expect("the test's JSON");
    let turns = turns(&request.messages, &Card::default()).expect("turns");
    assert_eq!(bound(&turns, 0), 3 + 16 + 2 * 768);
    assert_eq!((turns[0].images(), turns[0].bytes()), (2, 3));
}

/// Runs a search over messages of these lengths with a tokenizer of four bytes a token; what it found and how often it
/// asked.
fn search(messages: &[usize], goal: u64) -> (Option<usize>, u32) {
    let sizes: Vec<usize> = (0..messages.len()).map(|first| messages[first..].iter().sum()).collect();
    let tokens = |candidate: usize| sizes[candidate] as u64 / 4;
    let mut search = Search::new(&sizes, tokens(0), goal);
    let mut asked = 0;
    while let Some(candidate) = search.next() {
        search.measured(candidate, tokens(candidate));
        asked += 1;
    }
    (search.found(), asked)
}

#[test]
fn the_first_candidate_that_fits_is_found_with_few_questions() {
    let even = vec![400; 200];
    assert_eq!(search(&even, 10_000), (Some(100), 2));
    assert_eq!(search(&even, 19_900), (Some(1), 1));
    assert_eq!(search(&even, 99), (None, 1));
    let uneven: Vec<usize> = (0..200).map(|index| if index % 7 == 0 { 9000 } else { 40 }).collect();
    let total: usize = uneven.iter().sum();
    for goal in [10, 1000, 5000, total as u64 / 4 - 1] {
        let (found, asked) = search(&uneven, goal);
        let expected = (1..200).find(|first| uneven[*first..].iter().sum::<usize>() as u64 / 4 <= goal);
        assert_eq!(found, expected, "{goal}");
        assert!(asked <= 10, "{asked} questions for {goal}");
    }
}
