//! Who a connection speaks for. `Verifier::verify` is the only source of a `VerifiedDevice`.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;
use wire::body::name;
use wire::table::Authenticate;
use wire::{CloseReason, DeviceKey, ErrorCode, IdKey, UserKey};

/// How far clocks may differ, in seconds.
const LEEWAY_S: u64 = 60;
/// The device of a client that names none.
const DEVICE_DEFAULT: &str = "default";

/// Proof that a token, or a development user id where those are allowed, was checked.
pub(crate) struct VerifiedDevice {
    pub(crate) user: Box<str>,
    pub(crate) device: Box<str>,
    /// When the token ends, in milliseconds since 1970.
    pub(crate) expires_at: Option<u64>,
    _only_auth: (),
}

/// Why a connection may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AuthError {
    pub(crate) code: ErrorCode,
    pub(crate) text: &'static str,
}

impl AuthError {
    fn refused(text: &'static str) -> Self {
        Self { code: ErrorCode::Unauthenticated, text }
    }

    pub(crate) fn close_reason(self) -> CloseReason {
        CloseReason::Unauthenticated
    }
}

/// HS256 and what else a token must say. The algorithm is ours to choose, never the token's.
#[derive(Clone)]
pub struct TokenRules {
    key: DecodingKey,
    validation: Validation,
}

impl TokenRules {
    /// Tokens signed with `secret`, for `audience` and by `issuer` where those are set.
    pub fn hs256(secret: &[u8], audience: Option<&str>, issuer: Option<&str>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked against the driver's clock, below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = audience.is_some();
        if let Some(audience) = audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        Self { key: DecodingKey::from_secret(secret), validation }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    device_id: Option<String>,
    exp: Option<u64>,
    nbf: Option<u64>,
}

/// What this server accepts as proof.
#[derive(Clone)]
pub struct Verifier {
    /// Whether a user id without a token will do.
    pub dev_auth: bool,
    /// How tokens are checked, where there are any.
    pub tokens: Option<TokenRules>,
}

impl Verifier {
    pub(crate) fn verify(
        &self,
        wall: u64,
        claim: &Authenticate<'_>,
    ) -> Result<VerifiedDevice, AuthError> {
        match (claim.token, claim.user) {
            (Some(token), _) => self.verify_token(wall, token, claim.device),
            (None, Some(user)) if self.dev_auth => Ok(VerifiedDevice {
                user: user.into(),
                device: claim.device.unwrap_or(DEVICE_DEFAULT).into(),
                expires_at: None,
                _only_auth: (),
            }),
            (None, Some(_)) => Err(AuthError::refused("this server wants a token")),
            (None, None) => Err(AuthError::refused("neither a token nor a user id")),
        }
    }

    fn verify_token(
        &self,
        wall: u64,
        token: &str,
        device: Option<&str>,
    ) -> Result<VerifiedDevice, AuthError> {
        let rules =
            self.tokens.as_ref().ok_or(AuthError::refused("this server accepts no tokens"))?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &rules.key, &rules.validation);
        let claims = decoded.map_err(|error| AuthError::refused(refusal(error.kind())))?.claims;
        let seconds = wall / 1000;
        if claims.exp.is_some_and(|exp| exp.saturating_add(LEEWAY_S) <= seconds) {
            return Err(AuthError { code: ErrorCode::TokenExpired, text: "the token has expired" });
        }
        if claims.nbf.is_some_and(|nbf| nbf > seconds + LEEWAY_S) {
            return Err(AuthError::refused("the token is not valid yet"));
        }
        let user = name(claims.sub.as_bytes())
            .map_err(|_| AuthError::refused("the token's sub is no user id"))?;
        let device = claims.device_id.as_deref().or(device).unwrap_or(DEVICE_DEFAULT);
        let device = name(device.as_bytes())
            .map_err(|_| AuthError::refused("the token's device_id is no device id"))?;
        let expires_at = claims.exp.map(|exp| exp.saturating_add(LEEWAY_S).saturating_mul(1000));
        Ok(VerifiedDevice { user: user.into(), device: device.into(), expires_at, _only_auth: () })
    }
}

fn refusal(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "the token's algorithm is not the server's"
        }
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        _ => "the token is malformed",
    }
}

pub(crate) const RESUME_TOKEN_BYTES: usize = 24;

/// A token that says: this device had this session here.
pub(crate) fn resume_token(
    ids: &IdKey,
    (user, device): (UserKey, DeviceKey),
    session: u64,
) -> [u8; RESUME_TOKEN_BYTES] {
    let proof = ids.resume(user, device, session);
    let mut token = [0; RESUME_TOKEN_BYTES];
    token[..8].copy_from_slice(&session.to_le_bytes());
    token[8..].copy_from_slice(&proof.to_le_bytes());
    token
}

/// Whether `token` was made here, for this device of this user.
pub(crate) fn is_resume_token(ids: &IdKey, device: &VerifiedDevice, token: &[u8]) -> bool {
    let Some((session, _)) = token.split_first_chunk::<8>() else { return false };
    let who = (ids.user(&device.user), ids.device(&device.device));
    let expected = resume_token(ids, who, u64::from_le_bytes(*session));
    // Every byte is looked at, so that the time taken tells nothing.
    token.len() == expected.len()
        && token.iter().zip(expected).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const NOW_S: u64 = 1_800_000_000;

    fn verify(claims: &serde_json::Value, header: &Header) -> Result<String, &'static str> {
        let token = encode(header, claims, &EncodingKey::from_secret(b"secret")).unwrap();
        let rules = TokenRules::hs256(b"secret", Some("chat"), None);
        let verifier = Verifier { dev_auth: false, tokens: Some(rules) };
        let claim = Authenticate {
            token: Some(&token),
            user: None,
            device: None,
            resume_token: None,
            auto_delivered: false,
        };
        let device = verifier.verify(NOW_S * 1000, &claim).map_err(|error| error.text)?;
        Ok(format!("{}/{}", device.user, device.device))
    }

    fn check(claims: &serde_json::Value, expected: Result<&str, &'static str>) {
        let got = verify(claims, &Header::new(Algorithm::HS256));
        assert_eq!(got.as_deref().map_err(|text| *text), expected);
    }

    #[test]
    fn a_token_is_believed_only_whole() {
        check(&json!({"sub": "alice", "aud": "chat"}), Ok("alice/default"));
        check(&json!({"sub": "alice", "device_id": "phone", "aud": "chat"}), Ok("alice/phone"));
        check(&json!({"sub": "alice", "aud": "mail"}), Err("the token is for another audience"));
        check(&json!({"sub": "a b", "aud": "chat"}), Err("the token's sub is no user id"));
        check(&json!({"aud": "chat"}), Err("the token is malformed"));
    }

    #[test]
    fn a_token_counts_from_its_start_to_its_end() {
        let claims = |key: &str, at: u64| json!({"sub": "alice", "aud": "chat", key: at});
        check(&claims("exp", NOW_S - LEEWAY_S + 1), Ok("alice/default"));
        check(&claims("exp", NOW_S - LEEWAY_S), Err("the token has expired"));
        check(&claims("nbf", NOW_S + LEEWAY_S), Ok("alice/default"));
        check(&claims("nbf", NOW_S + LEEWAY_S + 1), Err("the token is not valid yet"));
    }

    #[test]
    fn the_algorithm_is_not_the_tokens_to_choose() {
        let claims = json!({"sub": "alice", "aud": "chat"});
        let got = verify(&claims, &Header::new(Algorithm::HS512));
        assert_eq!(got, Err("the token's algorithm is not the server's"));
    }

    #[test]
    fn a_resume_token_is_good_for_its_device_alone() {
        let ids = IdKey([7; 16]);
        let device = |user: &str| VerifiedDevice {
            user: user.into(),
            device: "phone".into(),
            expires_at: None,
            _only_auth: (),
        };
        let token = resume_token(&ids, (ids.user("alice"), ids.device("phone")), 3);
        assert!(is_resume_token(&ids, &device("alice"), &token));
        assert!(!is_resume_token(&ids, &device("bob"), &token));
        assert!(!is_resume_token(&IdKey([8; 16]), &device("alice"), &token));
        assert!(!is_resume_token(&ids, &device("alice"), &token[..23]));
        assert!(!is_resume_token(&ids, &device("alice"), b""));
    }
}
