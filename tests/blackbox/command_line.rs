//! What the command line says when something is wrong: exit code, what happened, why, what to do.

use std::net::TcpListener;

use crate::harness::{Request, Vllama};

#[tokio::test]
async fn a_port_in_use_is_told_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let ended = Vllama::with_fake().env("OLLAMA_HOST", &address).run().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    assert!(ended.stderr.to_lowercase().contains("in use"), "{}", ended.stderr);
    assert!(ended.stderr.contains("OLLAMA_HOST"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_model_that_is_not_installed_is_told_by_its_name() {
    let ended = Vllama::with_fake().arguments(&["serve", "nobody:7b"]).run().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("nobody:7b"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_flag_nobody_knows_is_exit_code_2() {
    let ended = Vllama::with_fake().arguments(&["serve", "--no-such-flag"]).run().await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--no-such-flag") && ended.stderr.contains("Usage"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_verbs_of_ollamas_client_are_told_where_they_are() {
    for (verb, request) in [("pull", "/api/pull -d"), ("ls", "/api/tags"), ("rm", "-X DELETE")] {
        let ended = Vllama::with_fake().arguments(&[verb, "smollm2:135m"]).run().await;
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        let told = [format!("ollama {verb}"), request.to_owned()];
        assert!(told.iter().all(|text| ended.stderr.contains(text)), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_word_that_is_no_level_does_not_silence_the_log() {
    for (filter, wrong) in [("verbose", "verbose"), ("warning", "warning"), ("info,vllm=", "vllm="), ("info,,", "")] {
        let ended = Vllama::with_fake().env("VLLAMA_LOG", filter).run().await;
        assert_eq!(ended.status.code(), Some(2), "{filter}: {}", ended.stderr);
        assert!(ended.stderr.contains(&format!("'{wrong}' names no level")), "{filter}: {}", ended.stderr);
    }
    for filter in ["OFF", "info,vllm=debug", "vllama::server=trace, warn"] {
        Vllama::with_fake().env("VLLAMA_LOG", filter).start_listening().await;
    }
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told_by_its_path() {
    let ended = Vllama::with_fake().env("VLLAMA_ENGINE", "/nowhere/bin/vllm").run().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("/nowhere/bin/vllm"), "{}", ended.stderr);
    assert!(ended.stderr.contains("VLLAMA_ENGINE") || ended.stderr.contains("--engine"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_value_that_cannot_be_used_is_told_with_where_it_stands() {
    for (name, value) in [("OLLAMA_HOST", "nowhere"), ("VLLAMA_DRAIN", "soon"), ("OLLAMA_MAX_QUEUE", "many")] {
        let ended = Vllama::with_fake().env(name, value).run().await;
        assert!(matches!(ended.status.code(), Some(1 | 2)), "{name}: {} {}", ended.status, ended.stderr);
        assert!(ended.stderr.contains(value) && ended.stderr.contains(name), "{name}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn every_form_of_the_address_is_understood() {
    let forms = ["127.0.0.1:0", "localhost:0", "http://127.0.0.1:0", "\"127.0.0.1:0\"", ":0", "0.0.0.0:0", "[::1]:0"];
    for form in forms {
        if form.starts_with('[') && TcpListener::bind("[::1]:0").is_err() {
            println!("skipped: {form}: this machine has no IPv6");
            continue;
        }
        let mut vllama = Vllama::with_fake().env("OLLAMA_HOST", form).start_listening().await;
        if vllama.address.ip().is_unspecified() {
            vllama.client = crate::harness::Client::Tcp(([127, 0, 0, 1], vllama.address.port()).into());
        }
        let answer = vllama.client.request(&Request::new("GET", "/")).await;
        assert_eq!(answer.text(), "Ollama is running", "{form}");
    }
}

#[tokio::test]
async fn help_and_version_are_exit_code_0() {
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["explain", "--help"],
        &["doctor", "--help"],
        &["--version"],
        &["version"],
    ] {
        let ended = Vllama::with_fake().arguments(arguments).run().await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", ended.stderr);
    }
}
