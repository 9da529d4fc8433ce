//! A connection that ends when something says so, whatever its two sides are doing.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is cut when its future ends.
pub(super) struct Cut<S> {
    stream: S,
    /// None once it has come.
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Cut<S> {
    pub(super) fn new(stream: S, closing: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            stream,
            closing: Some(Box::pin(closing)),
        }
    }

    /// Asked on reading and on writing: a peer that stops doing one cannot put the end off.
    fn standing(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let cut = self
            .closing
            .as_mut()
            .is_none_or(|closing| closing.as_mut().poll(cx).is_ready());
        if cut {
            self.closing = None;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.standing(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.standing(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.standing(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.standing(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
