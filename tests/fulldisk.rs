//! A disk that fills up: the node says so, stops where it must, and has everything once there is space.
//! Needs root for a small tmpfs; elsewhere it says that it is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::process::Command;

use hefu::proto::{
    ledger::v1::GetInclusionProofRequest, risk::v1::SubmitRiskRequest, r#type::v1::Receipt,
};
use support::{
    Domain, QIDONG,
    process::{Process, configure},
    risk,
};

fn mount(folder: &std::path::Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).unwrap();
    let output = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "hefu"])
        .arg(folder)
        .output()
        .map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let domain = Domain::new();
    let disk = domain.folder.path().join("disk");
    if let Err(why) = mount(&disk) {
        return println!("skipped: {why}");
    }
    let _mounted = Mounted(disk.clone());
    let filler = disk.join("filler");
    std::fs::write(&filler, vec![1; 16 * 1024 * 1024]).unwrap();
    let config = configure(&domain, "qidong", &disk.join("node"), None);
    let node = Process::start(&config);
    let mut clients = node.clients(&domain, &format!("agency/{QIDONG}")).await;
    let mut acks: Vec<(String, Receipt)> = Vec::new();
    // No watermark is set: the disk itself refuses.
    let error = loop {
        let mut big = risk(&format!("R-{}", acks.len()));
        big.note = "满".repeat(1_000);
        let name = big.name.clone();
        let request = SubmitRiskRequest {
            risk: Some(big),
            ..Default::default()
        };
        match clients.risks.submit_risk(request).await {
            Ok(answer) => acks.push((name, answer.into_inner().receipt.unwrap())),
            Err(status) => break status,
        }
    };
    assert!(acks.len() > 100, "{}: {error}", acks.len());
    let status = node.wait();
    assert!(
        !status.success(),
        "the node exits for its supervisor to see"
    );
    std::fs::remove_file(&filler).unwrap();
    let node = Process::start(&config);
    let mut clients = node.clients(&domain, &format!("agency/{QIDONG}")).await;
    for (name, receipt) in &acks {
        let request = GetInclusionProofRequest {
            index: receipt.index,
            ..Default::default()
        };
        let proof = clients
            .ledger
            .get_inclusion_proof(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(proof.leaf_hash, receipt.leaf_hash, "{name}");
    }
    clients.submit(risk("AGAIN")).await.unwrap();
    println!("disk full after {} acknowledged, 0 missing", acks.len());
}
