# What a contributor runs. `verify` changes nothing; `fix` does.
verify:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test

fix:
    cargo fmt
    cargo clippy --all-targets --fix --allow-dirty

demo:
    cargo run --release -- demo

bench:
    cargo bench

# Longer runs of the crash tests.
soak:
    HEFU_KILLS=2000 cargo test --release --test crash -- --nocapture
    HEFU_CUTS=400 cargo test --release --test powercut -- --nocapture
