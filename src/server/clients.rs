//! How many answers of models one client may have on their way at a time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// Whoever has the key of this name, wherever it is used.
    Key(Box<str>),
    /// Who has no key. One who has an IPv6 address has at least 2⁶⁴ of them, so those of a network count as one.
    Address(IpAddr),
}

impl Client {
    /// The client with this key, if it has one, at this address.
    pub fn of(key: Option<&str>, address: IpAddr) -> Self {
        if let Some(key) = key {
            return Self::Key(key.into());
        }
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        })
    }
}

/// The answers on their way.
#[derive(Debug, Default)]
pub struct Clients {
    /// Nobody with none is in it. The lock is held for a look and a count only.
    streams: Mutex<HashMap<Client, usize>>,
}

/// One of them; counts until it is dropped.
#[derive(Debug)]
pub struct Stream {
    clients: Arc<Clients>,
    client: Client,
}

impl Clients {
    /// Counts one more of a client that may have `most`, 0 = any number; `None` when it has as many already.
    pub fn begin(self: &Arc<Self>, client: Client, most: usize) -> Option<Stream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let running = streams.get(&client).copied().unwrap_or_default();
        if most > 0 && running >= most {
            return None;
        }
        streams.insert(client.clone(), running + 1);
        Some(Stream { clients: self.clone(), client })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = self.clients.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(&self.client) {
            Some(running) if *running > 1 => *running -= 1,
            _ => _ = streams.remove(&self.client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::of(None, address.parse().expect("an address"))
    }

    #[test]
    fn each_client_has_its_own_number_and_gets_it_back() {
        let clients = Arc::new(Clients::default());
        let (one, other) = (|| client("10.0.0.1"), || Client::of(Some("laptop"), [10, 0, 0, 1].into()));
        let first = clients.begin(one(), 2).expect("the first");
        let second = clients.begin(one(), 2).expect("the second");
        assert!(clients.begin(one(), 2).is_none());
        assert!(clients.begin(other(), 2).is_some());
        assert!(clients.begin(one(), 0).is_some(), "0 is any number");
        drop(first);
        assert!(clients.begin(one(), 2).is_some());
        drop(second);
        assert!(clients.streams.lock().expect("nobody else").is_empty(), "nobody is remembered");
    }

    #[test]
    fn addresses_of_one_network_are_one_client_in_ipv6() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
    }
}
