# What a contributor runs. `just verify` changes nothing; `just fix` does; .ci/run does all that a commit must pass.
verify:
    cargo fmt --all --check
    python3 seeds/generate.py --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test

fix:
    cargo fmt --all
    cargo clippy --all-targets --fix --allow-dirty --allow-staged

# A city and eight counties on this machine.
demo *options:
    cargo run --release -- demo {{ options }}

# The whole exchange beside a bare server; `cargo bench` has the hot pieces.
bench *options:
    cargo run --release -- bench {{ options }}

# What deploy/ says, without containers; needs PyYAML.
deploy:
    cargo build
    python3 deploy/check.py target/debug/hefu

# Licences, duplicates, sources; needs cargo-deny.
deny:
    cargo deny check licenses bans sources

# County, city and province in simulated time: so many runs, each from its seed.
simulate seeds="10000" first="0":
    HEFU_SEEDS={{ seeds }} HEFU_FIRST_SEED={{ first }} cargo test --test simulation every_seed_holds -- --nocapture

# Longer runs of the crash tests; power cuts need root.
soak kills="2000" cuts="400":
    HEFU_KILLS={{ kills }} cargo test --release --test crash -- --nocapture
    HEFU_CUTS={{ cuts }} cargo test --release --test powercut -- --nocapture
