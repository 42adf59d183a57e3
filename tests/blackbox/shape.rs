//! The shape of a JSON value: which keys, which types; values do not matter.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// The shape of one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// A scalar's type.
    Is(&'static str),
    /// An array by its first element; `None` when it is empty.
    List(Option<Box<Shape>>),
    /// An object by its keys.
    Object(BTreeMap<String, Shape>),
}

impl Shape {
    /// The shape of a value.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Is("null"),
            Value::Bool(_) => Self::Is("bool"),
            Value::Number(number) if number.is_f64() => Self::Is("float"),
            Value::Number(_) => Self::Is("integer"),
            Value::String(_) => Self::Is("string"),
            Value::Array(values) => Self::List(values.first().map(|value| Box::new(Self::of(value)))),
            Value::Object(members) => {
                Self::Object(members.iter().map(|(name, value)| (name.clone(), Self::of(value))).collect())
            }
        }
    }

    /// Forgets the member at a path such as `choices.0.logprobs`, with `0` for the elements of an array.
    pub fn without(mut self, path: &str) -> Self {
        self.remove(path);
        self
    }

    fn remove(&mut self, path: &str) {
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        match self {
            Self::Object(members) if rest.is_empty() => {
                members.remove(name);
            }
            Self::Object(members) => {
                if let Some(member) = members.get_mut(name) {
                    member.remove(rest);
                }
            }
            Self::List(Some(element)) => element.remove(rest),
            Self::Is(_) | Self::List(None) => {}
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(kind) => formatter.write_str(kind),
            Self::List(None) => formatter.write_str("[]"),
            Self::List(Some(element)) => write!(formatter, "[{element}]"),
            Self::Object(members) => {
                let members: Vec<_> = members.iter().map(|(name, shape)| format!("{name}: {shape}")).collect();
                write!(formatter, "{{{}}}", members.join(", "))
            }
        }
    }
}
