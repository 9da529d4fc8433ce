//! Whatever breaks, and whenever: the same entries arrive, once, in order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A node takes so many records in.
    Submit(usize, usize),
    /// The next connection of a node breaks after so many messages up and down.
    Break(usize, usize, usize),
    Restart(usize),
    Sync(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..3, 1usize..60).prop_map(|(node, n)| Step::Submit(node, n)),
        1 => (0usize..3, 1_000usize..2_500).prop_map(|(node, n)| Step::Submit(node, n)),
        4 => (1usize..3, 1usize..9, 1usize..9).prop_map(|(n, up, down)| Step::Break(n, up, down)),
        2 => (0usize..3).prop_map(Step::Restart),
        1 => (1usize..3).prop_map(Step::Sync),
    ];
    proptest::collection::vec(step, 1..24)
}

/// Restarts one of province, city and county where it stands.
async fn restart(nodes: Vec<Node>, which: usize) -> Vec<Node> {
    let mut after = Vec::new();
    for (at, node) in nodes.into_iter().enumerate() {
        after.push(if at == which {
            node.restart().await
        } else {
            node
        });
    }
    after
}

async fn play(steps: Vec<Step>) {
    let province = Node::top("jiangsu").await;
    let city = Node::below("nantong", &province).await;
    let county = Node::below("qidong", &city).await;
    let mut nodes = vec![province, city, county];
    let mut records = 0;
    for step in steps {
        match step {
            Step::Submit(node, count) => {
                nodes[node].submit(records..records + count).await;
                records += count;
            }
            Step::Break(node, up, down) => {
                let wire = nodes[node].wire.as_ref().unwrap();
                lock(&wire.breaks).push((up, down));
            }
            Step::Restart(node) => nodes = restart(nodes, node).await,
            Step::Sync(node) => nodes[node].sync().await,
        }
    }
    for node in &nodes[1..] {
        lock(&node.wire.as_ref().unwrap().breaks).clear();
    }
    // The county first: what it brings to the city, the city brings to the province.
    nodes[2].sync().await;
    nodes[1].sync().await;
    same(&nodes[2], &nodes[1], &nodes[2].origin());
    same(&nodes[1], &nodes[0], &nodes[2].origin());
    same(&nodes[1], &nodes[0], &nodes[1].origin());
    for status in nodes[1]
        .board
        .uplinks()
        .iter()
        .chain(&nodes[2].board.uplinks())
    {
        assert!(status.cosigned <= status.size, "{status:?}");
    }
    for node in &mut nodes {
        node.stop().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn everything_arrives_once_and_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(play(steps));
    }
}
