//! How the engine is to treat a request: who goes first, how long it may take, and with whom it shares what is cached.

use std::time::Duration;

use cachalot_engine::Priority;

use crate::caller::Caller;
use crate::error::ApiError;
use crate::wire::common::{CommonFields, ServiceTier};

/// The checked wishes of a request, and what the server adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) priority: Priority,
    /// The name of the tier that it is served in, for requests that name one.
    pub(crate) tier: Option<&'static str>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) cache_salt: String,
}

impl Service {
    /// `user` is the client's name for whoever it asks for; `default_timeout` is the server's.
    ///
    /// # Errors
    /// 400 for a value out of range, and for two wishes about the turn that contradict each other.
    pub(crate) fn validate(
        fields: &CommonFields,
        user: Option<&str>,
        caller: &Caller,
        default_timeout: Option<Duration>,
    ) -> Result<Self, ApiError> {
        if fields.cache_salt.as_deref() == Some("") {
            return Err(ApiError::invalid("Invalid cache_salt value, a text that is not empty is needed")
                .with_param("cache_salt"));
        }
        let priority = priority(fields)?;
        Ok(Service {
            priority,
            tier: fields.service_tier.map(|_| match priority {
                Priority::High => "priority",
                Priority::Normal => "default",
                Priority::Low => "flex",
            }),
            timeout: timeout(fields)?.or(default_timeout),
            cache_salt: cache_salt(caller, user, fields.cache_salt.as_deref()),
        })
    }
}

/// Clients may put themselves forward: nobody waits for long because of that, see [`Priority::AGING`].
fn priority(fields: &CommonFields) -> Result<Priority, ApiError> {
    let by_number = fields.priority.map(|priority| match priority {
        ..0 => Priority::High,
        0 => Priority::Normal,
        1.. => Priority::Low,
    });
    let by_tier = match fields.service_tier {
        None | Some(ServiceTier::Auto) => None,
        Some(ServiceTier::Default) => Some(Priority::Normal),
        Some(ServiceTier::Flex) => Some(Priority::Low),
        Some(ServiceTier::Priority) => Some(Priority::High),
    };
    match (by_number, by_tier) {
        (Some(by_number), Some(by_tier)) if by_number != by_tier => Err(ApiError::invalid(
            "Invalid priority value, it contradicts service_tier: the tier `priority` is below 0, `default` is 0 and `flex` \
             is above 0; send one of the two fields",
        )
        .with_param("priority")),
        (by_number, by_tier) => Ok(by_number.or(by_tier).unwrap_or_default()),
    }
}

fn timeout(fields: &CommonFields) -> Result<Option<Duration>, ApiError> {
    let Some(seconds) = fields.timeout else { return Ok(None) };
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() => Ok(Some(timeout)),
        _ => Err(ApiError::range("timeout", "any number of seconds over 0")),
    }
}

/// Names those who may find out, by how fast they are answered, what the others have asked. Quoted, so that no two of them
/// look alike.
fn cache_salt(caller: &Caller, user: Option<&str>, salt: Option<&str>) -> String {
    format!("{:?} {user:?} {salt:?}", caller.key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::auth::AcceptedKey;

    fn validate(fields: CommonFields) -> Result<Service, ApiError> {
        Service::validate(&fields, None, &Caller::with_key(None), Some(Duration::from_secs(7)))
    }

    #[test]
    fn numbers_and_tiers_become_classes() {
        use ServiceTier::{Auto, Default, Flex, Priority as Urgent};
        let cases = [
            (None, None, Ok((Priority::Normal, None))),
            (Some(-3), None, Ok((Priority::High, None))),
            (Some(0), None, Ok((Priority::Normal, None))),
            (Some(i64::MAX), None, Ok((Priority::Low, None))),
            (None, Some(Auto), Ok((Priority::Normal, Some("default")))),
            (None, Some(Default), Ok((Priority::Normal, Some("default")))),
            (None, Some(Flex), Ok((Priority::Low, Some("flex")))),
            (None, Some(Urgent), Ok((Priority::High, Some("priority")))),
            (Some(-1), Some(Auto), Ok((Priority::High, Some("priority")))),
            (Some(-1), Some(Urgent), Ok((Priority::High, Some("priority")))),
            (Some(5), Some(Flex), Ok((Priority::Low, Some("flex")))),
            (Some(-1), Some(Default), Err(())),
            (Some(0), Some(Flex), Err(())),
            (Some(1), Some(Urgent), Err(())),
        ];
        for (priority, service_tier, expected) in cases {
            let found = validate(CommonFields { priority, service_tier, ..CommonFields::default() });
            let found = found.map(|service| (service.priority, service.tier)).map_err(|_| ());
            assert_eq!(found, expected, "{priority:?} {service_tier:?}");
        }
    }

    #[test]
    fn a_request_may_take_as_long_as_it_says_or_else_as_the_server_says() {
        let timeout = |timeout| {
            validate(CommonFields { timeout, ..CommonFields::default() }).map(|service| service.timeout).map_err(|_| ())
        };
        assert_eq!(timeout(None), Ok(Some(Duration::from_secs(7))));
        assert_eq!(timeout(Some(0.25)), Ok(Some(Duration::from_millis(250))));
        assert_eq!(timeout(Some(1000.0)), Ok(Some(Duration::from_secs(1000))));
        for out_of_range in [0.0, -1.0, 1e-12, 1e30] {
            assert_eq!(timeout(Some(out_of_range)), Err(()), "{out_of_range}");
        }
    }

    #[test]
    fn whoever_differs_has_another_salt() {
        let keys = [None, Some(AcceptedKey(0)), Some(AcceptedKey(1))];
        let texts = [None, Some("None"), Some("a"), Some("a\" Some(\"b"), Some("b")];
        let mut salts = BTreeSet::new();
        for key in keys {
            for user in texts {
                for salt in texts {
                    let salt = cache_salt(&Caller::with_key(key), user, salt);
                    assert!(salts.insert(salt.clone()), "{salt} is there twice");
                }
            }
        }
    }
}
