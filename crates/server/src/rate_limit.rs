//! How many requests a client may start: a bucket of tokens for each, off unless it is asked for.
//!
//! A client is a key, or without keys an address. Buckets of keys are as many as there are keys. Those of addresses are bounded:
//! a bucket that is full again says nothing and is forgotten, and while too many are not, all other addresses share one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use crate::auth::AcceptedKey;
use crate::error::ApiError;
use crate::state::AppState;

/// What a bucket holds is what comes in within so long.
const WINDOW: Duration = Duration::from_secs(60);
/// The most buckets of addresses.
const MAX_BUCKETS: usize = 16 << 10;
/// How often full buckets are looked for at most: a look goes through all of them.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Who starts a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    Key(usize),
    Address(IpAddr),
    /// One of those that there is no room to tell apart, or whose address is not known.
    Other,
}

/// The buckets of all clients.
pub(crate) struct RateLimit {
    requests_per_minute: NonZeroU32,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    /// When each client's bucket will be full; that is all there is to know about a bucket.
    full_at: HashMap<Client, Instant>,
    swept_at: Option<Instant>,
}

impl RateLimit {
    pub(crate) fn new(requests_per_minute: NonZeroU32) -> Self {
        RateLimit { requests_per_minute, buckets: Mutex::default() }
    }

    /// Takes a token out of the client's bucket.
    ///
    /// # Errors
    /// If there is none: how long until there is.
    fn take(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let refill = WINDOW / self.requests_per_minute.get();
        // The lock is held for a few instructions that cannot panic.
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let client = buckets.room_for(client, now);
        let full_at = buckets.full_at.entry(client).or_insert(now);
        let next_full_at = (*full_at).max(now) + refill;
        match (next_full_at - now).checked_sub(WINDOW) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *full_at = next_full_at;
                Ok(())
            }
        }
    }
}

impl Buckets {
    fn room_for(&mut self, client: Client, now: Instant) -> Client {
        let is_bounded = !matches!(client, Client::Address(_));
        if is_bounded || self.full_at.len() < MAX_BUCKETS || self.full_at.contains_key(&client) {
            return client;
        }
        if self.swept_at.is_none_or(|swept_at| now.duration_since(swept_at) >= SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < MAX_BUCKETS { client } else { Client::Other }
    }
}

/// Refuses requests that come too fast. Only those that make the server compute count: pages that look at the models or at the
/// balance now and then should not use up what their users have.
pub(crate) async fn limit(State(state): State<AppState>, request: Request, next: Next) -> Result<Response, ApiError> {
    if let Some(rate_limit) = state.rate_limit().filter(|_| request.method() == Method::POST) {
        rate_limit.take(client(&request), Instant::now()).map_err(|wait| {
            let limit = rate_limit.requests_per_minute;
            // A client that waits for whole seconds should not come too early.
            let wait = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            ApiError::rate_limited(
                format!(
                    "Rate limit reached: this server takes {limit} requests per minute from each client; try again in {} s",
                    wait.as_secs()
                ),
                wait,
            )
        })?;
    }
    Ok(next.run(request).await)
}

fn client(request: &Request) -> Client {
    if let Some(&AcceptedKey(index)) = request.extensions().get() {
        return Client::Key(index);
    }
    match request.extensions().get() {
        Some(ConnectInfo::<SocketAddr>(address)) => Client::Address(network(address.ip())),
        None => Client::Other,
    }
}

/// Whoever has one address of version 6 has the 2⁶⁴ around it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_limit(requests_per_minute: u32) -> RateLimit {
        RateLimit::new(NonZeroU32::new(requests_per_minute).unwrap())
    }

    #[test]
    fn a_minutes_worth_at_once_and_then_one_by_one() {
        let limit = rate_limit(3);
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let steps: [(u64, usize, Result<(), u64>); 9] = [
            (0, 1, Ok(())),
            (0, 1, Ok(())),
            (0, 1, Ok(())),
            (0, 1, Err(20)),
            (0, 2, Ok(())),
            (15, 1, Err(5)),
            (20, 1, Ok(())),
            (20, 1, Err(20)),
            (600, 1, Ok(())),
        ];
        for (step, (seconds, key, expected)) in steps.into_iter().enumerate() {
            let found = limit.take(Client::Key(key), at(seconds));
            assert_eq!(found, expected.map_err(Duration::from_secs), "step {step}");
        }
    }

    #[test]
    fn no_crowd_of_addresses_fills_the_memory() {
        let limit = rate_limit(1);
        let now = Instant::now();
        let address = |i: usize| Client::Address(IpAddr::V4(u32::try_from(i).unwrap().into()));
        for i in 0..MAX_BUCKETS {
            assert_eq!(limit.take(address(i), now), Ok(()), "{i}");
        }
        // The next ones share a bucket, and those that have one keep it.
        assert_eq!(limit.take(address(MAX_BUCKETS), now), Ok(()));
        assert_eq!(limit.take(address(MAX_BUCKETS + 1), now), Err(WINDOW));
        assert_eq!(limit.take(address(0), now), Err(WINDOW));
        assert_eq!(limit.buckets.lock().unwrap().full_at.len(), MAX_BUCKETS + 1);
        // A key has a bucket of its own in any case.
        assert_eq!(limit.take(Client::Key(0), now), Ok(()));
        // Full buckets are forgotten.
        assert_eq!(limit.take(address(MAX_BUCKETS), now + WINDOW), Ok(()));
        assert_eq!(limit.buckets.lock().unwrap().full_at.len(), 1);
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let cases = [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:3::", "2001:db8:1:3::"),
        ];
        for (address, expected) in cases {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }
}
