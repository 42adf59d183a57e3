//! Who may come in, in this order: the host, the origin, the key, the route, a place. Nothing of a body has been read yet.

use std::time::Duration;

use http::header::{ALLOW, CONNECTION, HOST, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use tokio::time::timeout;

use super::asked::{Asked, CLOSE, empty};
use super::clients::Client;
use super::cors::{self, Verdict};
use super::front::Front;
use super::record::Holds;
use super::router::{Entry, Found, Router};
use super::{body, handling, host, keys};
use crate::access::{Access, Grant, Now};
use crate::api::{self, Reply};

/// How long the body of a request that is turned away is read.
const FAREWELL: Duration = Duration::from_secs(1);

impl Front {
    /// Host and origin first: a page that may not ask must not cause anything either.
    pub(super) async fn admit(&self, asked: Asked<'_>, holds: &mut Holds) -> Reply {
        let Asked { head, settings, visitor, .. } = asked;
        let mut names = head.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        let (first, second) = (names.next(), names.next());
        if second.is_some() {
            // Whoever looked at the other one before us must not be deceived (RFC 9112, section 3.2).
            let mut reply =
                api::whole(StatusCode::BAD_REQUEST, "text/plain", "400 bad request: more than one Host header");
            reply.headers_mut().insert(CONNECTION, CLOSE);
            return reply;
        }
        // A whole URL in the first line counts more than the header (RFC 9112, section 3.2.2).
        let named = head.uri.authority().map_or(first.unwrap_or_default(), http::uri::Authority::host);
        if visitor.local && !host::is_ours(named, settings.hostname.as_deref()) {
            return empty(StatusCode::FORBIDDEN);
        }
        let origin = match settings.origins.judge(&head.headers) {
            Verdict::NotCrossOrigin => return self.enter(asked, holds).await,
            Verdict::Forbidden => return empty(StatusCode::FORBIDDEN),
            Verdict::Allowed(origin) => origin,
        };
        let mut reply = if head.method == Method::OPTIONS {
            let mut reply = empty(StatusCode::NO_CONTENT);
            cors::preflight(reply.headers_mut());
            reply
        } else {
            self.enter(asked, holds).await
        };
        cors::allow(reply.headers_mut(), origin);
        reply
    }

    /// Then the key, before anything of the body is read, and whatever the path: who has none learns nothing. A preflight
    /// has none, so it does not come here.
    async fn enter(&self, mut asked: Asked<'_>, holds: &mut Holds) -> Reply {
        let Asked { head, settings, visitor, .. } = asked;
        let path = head.uri.path();
        let found = self.router.find(&head.method, path);
        if let Found::Route(entry) = &found
            && visitor.in_lobby
            && !entry.is_for_operators()
        {
            return self.turn_away(entry, asked).await;
        }
        let Some(gate) = settings.gate.as_ref().filter(|_| !self.router.is_open()) else {
            asked.call.grant = Grant::everything();
            return self.route(found, asked, holds).await;
        };
        let (access, refuse) = match &found {
            Found::Route(entry) => (entry.access, entry.refuse),
            Found::OtherMethods(_) | Found::WithoutSlash(_) | Found::Nothing => (Access::ANY, Router::stray(path)),
        };
        match gate.admit(keys::shown(&head.headers), access, Now::read()) {
            Ok((grant, admitted)) => {
                if let Some(key) = grant.key() {
                    asked.call.facts.set_key(key.to_owned());
                }
                asked.call.grant = grant;
                holds.admission = admitted;
            }
            Err((denied, who)) => {
                if let Some(key) = who.key() {
                    asked.call.facts.set_key(key.to_owned());
                }
                asked.call.facts.set_refusal(denied.reason());
                return keys::refuse(&denied, refuse, path, &asked.call.request_id);
            }
        }
        let quota = holds.admission.as_ref().map(|admission| admission.quota);
        let mut reply = self.route(found, asked, holds).await;
        if let Some(quota) = quota {
            keys::tell(&quota, path, reply.headers_mut());
        }
        reply
    }

    async fn route(&self, found: Found<'_>, asked: Asked<'_>, holds: &mut Holds) -> Reply {
        let Asked { head, ref call, .. } = asked;
        match found {
            Found::Route(entry) => match self.occupy(entry, &asked, holds) {
                None => handling::handle(entry, asked, self.crowd()).await,
                Some(refusal) => refusal,
            },
            Found::OtherMethods(methods) => {
                let stray = Router::stray(head.uri.path());
                let mut reply = stray(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed", &call.request_id);
                let methods = methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
                if let Ok(methods) = HeaderValue::from_str(&methods) {
                    reply.headers_mut().insert(ALLOW, methods);
                }
                reply
            }
            Found::WithoutSlash(path) => {
                let status = match head.method {
                    Method::GET => StatusCode::MOVED_PERMANENTLY,
                    _ => StatusCode::TEMPORARY_REDIRECT,
                };
                let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                let mut reply = empty(status);
                if let Ok(location) = HeaderValue::from_str(&format!("{path}{query}")) {
                    reply.headers_mut().insert(LOCATION, location);
                }
                reply
            }
            Found::Nothing => {
                Router::stray(head.uri.path())(StatusCode::NOT_FOUND, "404 page not found", &call.request_id)
            }
        }
    }

    /// For a client that came when all places were taken.
    async fn turn_away(&self, entry: &Entry, mut asked: Asked<'_>) -> Reply {
        asked.call.facts.set_route(entry.path);
        self.count_refused();
        let text = format!(
            "server busy: all of its {} connections are taken; try again in a moment, or raise --max-connections \
             (VLLAMA_MAX_CONNECTIONS) on the server",
            self.crowd().most()
        );
        if !asked.asks_first() {
            let _ = timeout(FAREWELL, body::discard(&mut asked.body)).await;
        }
        asked.refuse(entry, StatusCode::SERVICE_UNAVAILABLE, &text)
    }

    /// Takes what the request needs for itself as long as its answer lasts, before its body is read; a refusal where it
    /// cannot have that.
    fn occupy(&self, entry: &Entry, asked: &Asked<'_>, holds: &mut Holds) -> Option<Reply> {
        asked.call.facts.set_route(entry.path);
        if api::ASKS_A_MODEL.contains(&entry.path) {
            let client = Client::of(asked.call.grant.key(), asked.visitor.address);
            let most = asked.settings.streams_per_client;
            holds.stream = self.clients.begin(client, most);
            if holds.stream.is_none() {
                let text = format!(
                    "too many requests at a time: {most} of this client's are being answered, which is the limit; wait for \
                     one of them, or raise --streams-per-client (VLLAMA_STREAMS_PER_CLIENT) on the server"
                );
                return Some(asked.refuse(entry, StatusCode::TOO_MANY_REQUESTS, &text));
            }
        }
        if asked.has_body() {
            holds.descriptor = self.crowd().request();
            if holds.descriptor.is_none() {
                self.count_refused();
                let text = "server busy: it may have no more open files for requests; try again in a moment, or raise \
                            the limit of open files (`ulimit -n`) on the server";
                return Some(asked.refuse(entry, StatusCode::SERVICE_UNAVAILABLE, text));
            }
        }
        None
    }

    /// Counts somebody who was told to come back.
    fn count_refused(&self) {
        self.metrics().connection_refused();
        self.crowd().tell_of_refusals();
    }
}
