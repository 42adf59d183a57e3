//! Every route there is, asked without a key, with a wrong one, with one for something else and with a right one. What came
//! of it is the table in docs/security.md; `VLLAMA_BLESS=1` writes it.

use std::path::Path;

use vllama::access::{Access, Scope};
use vllama::api::{anthropic, ollama, openai};
use vllama::server::OPERATORS;

use crate::harness::{Answer, Request, Vllama};
use crate::keys::Keys;

const BEGIN: &str = "<!-- scan: begin; written by VLLAMA_BLESS=1 cargo test --test blackbox scan -->\n";
const END: &str = "<!-- scan: end -->\n";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Ollama,
    OpenAi,
    Anthropic,
    Text,
}

struct Target {
    method: String,
    pattern: &'static str,
    access: Access,
    shape: Shape,
}

impl Target {
    fn request(&self) -> Request {
        let digest = format!("sha256:{}", "0".repeat(64));
        let path = self
            .pattern
            .replace("{digest}", &digest)
            .replace("{*id}", "nope")
            .replace("{id}", "nope")
            .replace("{key}", "x");
        let request = Request::new(&self.method, &path);
        if ["GET", "HEAD"].contains(&self.method.as_str()) { request } else { request.body("{}") }
    }
}

fn targets() -> Vec<Target> {
    let native = ollama::routes::ROUTES.iter().chain(ollama::routes::UPLOADS).map(|route| (route, Shape::Ollama));
    let others = openai::routes::ROUTES.iter().map(|route| (route, Shape::OpenAi));
    let others = others.chain(anthropic::routes::ROUTES.iter().map(|route| (route, Shape::Anthropic)));
    let routes = native.chain(others).flat_map(|(route, shape)| {
        route.methods.iter().map(move |method| Target {
            method: method.to_string(),
            pattern: route.path,
            access: route.access,
            shape,
        })
    });
    let operators = OPERATORS.iter().flat_map(|(path, access, _)| {
        ["GET", "HEAD"].map(|method| Target {
            method: method.into(),
            pattern: path,
            access: *access,
            shape: Shape::Ollama,
        })
    });
    // Paths without a route are shut as well.
    let strays =
        [("GET", "/api/chat", Shape::Text), ("GET", "/nothing", Shape::Text), ("GET", "/api/tags/", Shape::Text)];
    let strays = strays.into_iter().chain([("GET", "/v1/messages/batches", Shape::Anthropic)]);
    let strays =
        strays.map(|(method, pattern, shape)| Target { method: method.into(), pattern, access: Access::ANY, shape });
    routes.chain(operators).chain(strays).collect()
}

/// Checks that a refusal has the shape of its route, and gives its status.
fn refused(target: &Target, answer: &Answer) -> String {
    let at = format!("{} {}: {}", target.method, target.pattern, answer.text());
    assert!(
        answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer realm=\"vllama\"")),
        "{at}"
    );
    if target.method != "HEAD" {
        match target.shape {
            Shape::Text => {
                assert!(answer.header("content-type") == Some("text/plain") && answer.text().contains("key"), "{at}")
            }
            Shape::Ollama => assert!(answer.error().contains("key"), "{at}"),
            Shape::OpenAi => {
                let error = answer.json()["error"].clone();
                assert!(error["message"].as_str().is_some_and(|text| text.contains("key")), "{at}");
                assert_eq!(error["code"] == "invalid_api_key", answer.status() == 401, "{at}");
            }
            Shape::Anthropic => {
                let kind = if answer.status() == 401 { "authentication_error" } else { "permission_error" };
                let told = answer.json();
                assert_eq!((&told["type"], &told["error"]["type"]), (&"error".into(), &kind.into()), "{at}");
            }
        }
    }
    answer.status().to_string()
}

#[tokio::test]
async fn every_route_is_shut_without_a_key_with_a_wrong_one_and_with_one_for_something_else() {
    let keys = Keys::of(Vllama::with_fake());
    let by_scope = Scope::ALL.map(|scope| (scope, keys.add(&[scope.name(), "--scope", scope.name()])));
    let vllama = keys.builder.start().await;
    let ask = async |target: &Target, key: Option<&str>| {
        let request = target.request();
        let request = match key {
            Some(key) => request.header("Authorization", &format!("Bearer {key}")),
            None => request,
        };
        vllama.client.request(&request).await
    };
    let mut table =
        "| route | asks for | no key | wrong key | wrong scope | right scope |\n|---|---|---|---|---|---|\n".to_owned();
    for target in targets() {
        let (none, wrong) = (ask(&target, None).await, ask(&target, Some("sk-vllama-wrong")).await);
        let mut cells = Vec::new();
        if target.access == Access::Open {
            assert_eq!((none.status(), wrong.status()), (200, 200), "{} {}", target.method, target.pattern);
            cells.extend(["200".to_owned(), "200".to_owned()]);
        } else {
            cells.extend([refused(&target, &none), refused(&target, &wrong)]);
            assert_eq!(cells, ["401", "401"], "{} {}", target.method, target.pattern);
        }
        let mut outside = Vec::new();
        let mut inside = Vec::new();
        for (scope, key) in &by_scope {
            let answer = ask(&target, Some(key)).await;
            if target.access == Access::Open || target.access.scopes().contains(scope) {
                assert!(
                    answer.header("www-authenticate").is_none(),
                    "{} {} lets {scope} in",
                    target.method,
                    target.pattern
                );
                assert!(answer.status() < 500, "{}", answer.text());
                inside.push(answer.status().to_string());
            } else {
                assert_eq!(refused(&target, &answer), "403", "{} {} with {scope}", target.method, target.pattern);
                outside.push(scope.name());
            }
        }
        inside.dedup();
        assert_eq!(inside.len(), 1, "every right scope has the same answer: {} {}", target.method, target.pattern);
        cells.push(if outside.is_empty() { "–".to_owned() } else { format!("403 ({})", outside.join(", ")) });
        cells.push(inside.concat());
        table.push_str(&format!(
            "| `{} {}` | {} | {} |\n",
            target.method,
            target.pattern,
            target.access,
            cells.join(" | ")
        ));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    let text = std::fs::read_to_string(&file).expect("docs/security.md");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (told, after) = rest.split_once(END).expect("the end of the table");
    if std::env::var_os("VLLAMA_BLESS").is_some() {
        std::fs::write(&file, [before, BEGIN, &table, END, after].concat()).expect("written");
    } else {
        assert_eq!(told, table, "docs/security.md tells what is; write it anew with VLLAMA_BLESS=1");
    }
}
