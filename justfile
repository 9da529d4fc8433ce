# What a contributor runs. `just verify` changes nothing; `just fix` does; .ci/run does all that a commit must pass.
verify:
    cargo fmt --check
    python3 seeds/generate.py --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test

fix:
    cargo fmt
    cargo clippy --all-targets --fix --allow-dirty --allow-staged

# A city and eight counties on this machine.
demo *options:
    cargo run --release -- demo {{ options }}

bench *options:
    cargo bench {{ options }}

# What deploy/ says, without containers; needs PyYAML.
deploy:
    cargo build
    python3 deploy/check.py target/debug/hefu

# Licences, duplicates, sources; needs cargo-deny.
deny:
    cargo deny check licenses bans sources

# Longer runs of the crash tests; power cuts need root.
soak kills="2000" cuts="400":
    HEFU_KILLS={{ kills }} cargo test --release --test crash -- --nocapture
    HEFU_CUTS={{ cuts }} cargo test --release --test powercut -- --nocapture
