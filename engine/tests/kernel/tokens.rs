//! Who may log in with which token.

use crate::support::{Client, Folder, Server, authenticate, hello};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};
use wire::table::Authenticate;
use wire::{CloseReason, ErrorCode, Kind};

const SECRET: &str = "thirty-two bytes of secret, or so";

fn serve(folder: &Folder, flags: &[&str]) -> Server {
    let file = folder.path("secret");
    // A file that an editor wrote ends with a line's end.
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.to_str().unwrap();
    folder.serve_strictly(&[&["--jwt-hs256-secret-file", file], flags].concat())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn signed(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn token(claims: &Value) -> String {
    signed(Algorithm::HS256, claims, SECRET)
}

/// The same claims and signature under another header.
fn relabelled(token: &str, header: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    format!("{header}.{rest}")
}

#[track_caller]
fn check_refused(server: &Server, token: &str, code: ErrorCode) {
    let mut client = Client::connect(server.native);
    let claim = Authenticate { token: Some(token), ..Default::default() };
    client.write(&[hello(), authenticate(&claim)].concat());
    assert_eq!(client.end(), (vec![code], Some(CloseReason::Unauthenticated)));
}

fn login(server: &Server, token: &str) -> Client {
    let claim = Authenticate { token: Some(token), ..Default::default() };
    server.login_with(&claim)
}

#[test]
fn a_good_token_says_who_one_is() {
    let folder = Folder::new();
    let server = serve(&folder, &[]);
    let claims = json!({"sub": "alice", "device_id": "phone", "exp": now_s() + 60});
    let mut alice = login(&server, &token(&claims));
    assert_eq!(alice.user, "alice");
    let mut bob = login(&server, &token(&json!({"sub": "bob"})));
    bob.expect(Kind::SyncDone);
    alice.say("bob", b"signed");
    assert_eq!(bob.message().sender, "alice");
    // A token that somebody else's implementation signed with the same secret.
    let fixed = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJjYXJvbCJ9.\
                 -FVOBMKaXH1R0YM0TVt00jM57RnowJSax-uRiYZxHJk";
    assert_eq!(login(&server, fixed).user, "carol");
    server.stop();
}

#[test]
fn a_token_that_is_not_good_is_refused() {
    let folder = Folder::new();
    let server = serve(&folder, &[]);
    let claims = json!({"sub": "alice", "exp": now_s() + 60});
    let good = token(&claims);
    let refused = |token: &str| check_refused(&server, token, ErrorCode::Unauthenticated);
    refused(&signed(Algorithm::HS256, &claims, "another secret of thirty-two bytes"));
    refused(&signed(Algorithm::HS512, &claims, SECRET));
    // Headers {"alg":"none"} and {"alg":"RS256"} over a signature that is right otherwise.
    refused(&relabelled(&good, "eyJhbGciOiJub25lIn0"));
    refused(&relabelled(&good, "eyJhbGciOiJSUzI1NiJ9"));
    let unsigned = good.rsplit_once('.').unwrap().0;
    refused(&relabelled(&format!("{unsigned}."), "eyJhbGciOiJub25lIn0"));
    refused(&format!("{unsigned}."));
    refused(&good[..good.len() - 4]);
    refused("no token at all");
    refused(&token(&json!({"exp": now_s() + 60})));
    refused(&token(&json!({"sub": ""})));
    refused(&token(&json!({"sub": "alice and bob"})));
    refused(&token(&json!({"sub": "alice", "nbf": now_s() + 3600})));
    let old = token(&json!({"sub": "alice", "exp": now_s() - 3600}));
    check_refused(&server, &old, ErrorCode::TokenExpired);
    assert_eq!(login(&server, &good).user, "alice");
    server.stop();
}

#[test]
fn a_name_is_no_proof_where_tokens_are_wanted() {
    let folder = Folder::new();
    let server = serve(&folder, &[]);
    for claim in [Authenticate { user: Some("alice"), ..Default::default() }, Default::default()] {
        let mut client = Client::connect(server.native);
        client.write(&[hello(), authenticate(&claim)].concat());
        let refused = (vec![ErrorCode::Unauthenticated], Some(CloseReason::Unauthenticated));
        assert_eq!(client.end(), refused);
    }
    server.stop();
}

#[test]
fn audience_and_issuer_are_checked_where_they_are_set() {
    let folder = Folder::new();
    let server = serve(&folder, &["--jwt-audience", "chat", "--jwt-issuer", "us"]);
    let refused = |claims: Value| {
        check_refused(&server, &token(&claims), ErrorCode::Unauthenticated);
    };
    refused(json!({"sub": "alice"}));
    refused(json!({"sub": "alice", "aud": "chat"}));
    refused(json!({"sub": "alice", "aud": "mail", "iss": "us"}));
    refused(json!({"sub": "alice", "aud": "chat", "iss": "them"}));
    let good = json!({"sub": "alice", "aud": "chat", "iss": "us"});
    assert_eq!(login(&server, &token(&good)).user, "alice");
    server.stop();
}

#[test]
fn a_session_ends_with_its_token() {
    let folder = Folder::new();
    let server = serve(&folder, &["--heartbeat-interval-s", "1"]);
    // A minute of leeway, of which a second or two is left.
    let mut alice = login(&server, &token(&json!({"sub": "alice", "exp": now_s() - 58})));
    alice.expect(Kind::SyncDone);
    let end = alice.end_while_beating();
    assert_eq!(end, (vec![ErrorCode::TokenExpired], Some(CloseReason::Unauthenticated)));
    server.stop();
}
