//! Tests of what only sled can get wrong.

use super::*;
use crate::storage::suite::state_suite;

#[test]
fn it_keeps_the_contract() {
    state_suite(|dir| SledState::open(dir, SledOptions::default()).unwrap().0);
}
