//! The trace that a request is part of, as W3C's Trace Context has it: handed on as it came, so that what the engine
//! records stands below what the client does.

use uuid::Uuid;

/// Longest `tracestate` that is handed on, in bytes; the recommendation asks for 512 at least.
const LONGEST_STATE: usize = 4096;

/// A client's place in a trace; never holds what could break a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    parent: String,
    state: Option<String>,
}

impl Trace {
    /// Reads the two headers. `None` where there is no parent or it is none, and then the state means nothing either; a
    /// state that is too long or no text is left out.
    #[must_use]
    pub fn read(parent: &str, state: Option<String>) -> Option<Self> {
        let parent = parent.trim();
        let is_state = |state: &String| {
            !state.is_empty() && state.len() <= LONGEST_STATE && state.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        is_parent(parent).then(|| Self { parent: parent.to_owned(), state: state.filter(is_state) })
    }

    /// A trace that begins here.
    #[must_use]
    pub fn begin() -> Self {
        Self { parent: format!("00-{}-{}-01", Uuid::new_v4().simple(), new_span()), state: None }
    }

    /// The same trace, with a new span as the parent of what follows.
    #[must_use]
    pub fn below(&self) -> Self {
        let flags = if self.is_sampled() { "01" } else { "00" };
        Self { parent: format!("00-{}-{}-{flags}", self.id(), new_span()), state: self.state.clone() }
    }

    /// `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The identity of the span that is the parent of what follows, 16 hexadecimal digits.
    #[must_use]
    pub fn span(&self) -> &str {
        self.parent.split('-').nth(2).unwrap_or_default()
    }

    /// Whether whoever came before has decided to record.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        let flags = self.parent.split('-').nth(3).and_then(|flags| u8::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & 1 == 1)
    }

    /// The trace's identity, 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        self.parent.split('-').nth(1).unwrap_or_default()
    }
}

/// Eight random bytes; some bits of them say that they are random, so they are never all zero.
fn new_span() -> String {
    Uuid::new_v4().as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `version-trace-parent-flags` in lower-case hexadecimal digits. Versions to come may have more parts.
fn is_parent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |length| {
        let part = parts.next().filter(|part| part.len() == length);
        part.filter(|part| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    };
    let is_something = |part: &&str| part.bytes().any(|byte| byte != b'0');
    let version = hex(2).filter(|version| *version != "ff");
    let (trace, span, flags) = (hex(32).filter(is_something), hex(16).filter(is_something), hex(2));
    let ends_well =
        if version == Some("00") { text.len() == 55 } else { text.bytes().all(|byte| byte.is_ascii_graphic()) };
    [version, trace, span, flags].iter().all(Option::is_some) && ends_well
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_as_the_recommendation_says() {
        for (text, valid) in [
            (PARENT, true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-a\r\nb", false),
            ("", false),
        ] {
            assert_eq!(Trace::read(text, None).is_some(), valid, "{text:?}");
        }
    }

    #[test]
    fn a_span_of_our_own_stays_in_the_trace_of_the_client() {
        let client = Trace::read(PARENT, Some("a=1".to_owned())).expect("a trace");
        let ours = client.below();
        assert_eq!((ours.id(), ours.state(), ours.is_sampled()), (client.id(), Some("a=1"), true));
        assert_ne!(ours.span(), client.span());
        assert!(is_parent(ours.parent()) && is_parent(Trace::begin().parent()) && Trace::begin().is_sampled());
        let unsampled = Trace::read(&format!("{}00", &PARENT[..53]), None).expect("a trace");
        assert!(!unsampled.is_sampled() && !unsampled.below().is_sampled());
    }

    #[test]
    fn a_state_is_kept_only_beside_a_parent_and_only_where_it_cannot_break_a_head() {
        let state = |text: &str| Trace::read(PARENT, Some(text.to_owned())).and_then(|trace| trace.state);
        assert_eq!(state("congo=t61rcWkgMzE,rojo=00"), Some("congo=t61rcWkgMzE,rojo=00".to_owned()));
        assert_eq!((state("a=1\r\nx: y"), state(&"x".repeat(5000)), state("")), (None, None, None));
        assert_eq!(Trace::read("x", Some("a=1".to_owned())), None);
        assert_eq!(Trace::read(PARENT, None).map(|trace| trace.id().to_owned()), Some(PARENT[3..35].to_owned()));
    }
}
