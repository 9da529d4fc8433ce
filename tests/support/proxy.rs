//! A TCP proxy between two nodes, whose line can go dead without either end being told.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Forwards connections to a port. While it is dead it accepts, takes what comes, and forwards nothing.
pub struct Proxy {
    pub port: u16,
    dead: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            dead: Arc::default(),
        };
        let dead = proxy.dead.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let ends = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                let [to_near, to_far] = ends;
                let (up, down) = (dead.clone(), dead.clone());
                thread::spawn(move || carry(near, to_far, &up));
                thread::spawn(move || carry(far, to_near, &down));
            }
        });
        proxy
    }

    /// The line goes dead, or is mended: connections of before stay dead.
    pub fn cut(&self, dead: bool) {
        self.dead.store(dead, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, dead: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    let mut lost = false;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        lost |= dead.load(Ordering::SeqCst);
        if lost {
            // A line that has lost bytes is of no use any more; once it is mended both ends are told.
            if !dead.load(Ordering::SeqCst) {
                break;
            }
            continue;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
