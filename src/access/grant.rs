//! What a request may, once it is in.

use std::sync::Arc;

use super::key::Key;
use super::scope::Scope;
use crate::model::ModelName;

/// What a request may, once it is in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Grant(Held);

#[derive(Clone, Debug)]
enum Held {
    /// The server asks for no keys.
    Everything,
    /// It does, and the request shows none; it is at a route that is open.
    Nothing,
    Key(Arc<Key>),
}

impl Grant {
    /// Of a server that asks for no keys.
    #[must_use]
    pub fn everything() -> Self {
        Self(Held::Everything)
    }

    /// Of a request without a key at an open route.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Held::Nothing)
    }

    pub(super) fn of(key: Arc<Key>) -> Self {
        Self(Held::Key(key))
    }

    /// The name of the key; `None` without one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match &self.0 {
            Held::Key(key) => Some(key.name.as_str()),
            Held::Everything | Held::Nothing => None,
        }
    }

    /// Whether it may do this.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        match &self.0 {
            Held::Everything => true,
            Held::Nothing => false,
            Held::Key(key) => key.has(scope),
        }
    }

    /// Whether it may use, see or change this model.
    #[must_use]
    pub fn allows(&self, model: &ModelName) -> bool {
        match &self.0 {
            Held::Everything => true,
            Held::Nothing => false,
            Held::Key(key) => key.limits.allow(model),
        }
    }

    /// The priority of its requests in the engine; `None` where the server asks for no keys, and clients say themselves.
    #[must_use]
    pub fn priority(&self) -> Option<i32> {
        match &self.0 {
            Held::Everything => None,
            Held::Nothing => Some(0),
            Held::Key(key) => Some(key.limits.priority),
        }
    }
}
