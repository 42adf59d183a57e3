//! Keys: who may ask what, how often and for how much (issue 6).
//!
//! In: the key file, and what a request shows of a key. Out: a [`Grant`], which goes with the request, and an
//! [`Admission`], which counts it; or a [`Denied`]. The [`Gate`] owns what is counted; everything else is pure. Knows names
//! of models, and nothing of HTTP: `server` asks at the door, `api` asks the grant about models.

mod account;
mod denied;
mod file;
mod gate;
mod grant;
mod key;
mod limits;
mod scope;
mod secret;
mod usage;

pub use account::{Now, Quota, Share};
pub use denied::Denied;
pub use file::{Entry, FileError, KeyFile};
pub use gate::{Admission, Gate};
pub use grant::Grant;
pub use key::{InvalidKeyName, Key, KeyName};
pub use limits::Limits;
pub use scope::{Access, Scope, UnknownScope};
pub use secret::{Digest, Secret};
pub use usage::Usage;
