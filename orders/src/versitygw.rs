//! Another local S3 server: versitygw, which verifies signatures and stores objects as files. Test code only;
//! `make check` builds it if Go is installed.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use test_support::Port;

/// Time limit for the start on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A running server with one bucket; stops when dropped.
pub(crate) struct VersityGw {
    child: Child,
    pub(crate) endpoint: String,
    _folder: tempfile::TempDir,
    _port: Port,
}

impl Drop for VersityGw {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl VersityGw {
    /// Starts `program` with a bucket, and the keys of [`Moto::settings`](crate::moto::Moto).
    pub(crate) fn start(program: &Path, bucket: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Each folder is a bucket. Metadata is in separate files, since not every file system supports
        // extended attributes.
        for name in [&format!("buckets/{bucket}"), "beside"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let log = folder.path().join("log");
        let port = Port::reserve();
        let address = port.address();
        let child = Command::new(program)
            .args([
                "--access",
                "test",
                "--secret",
                "test",
                "--region",
                "eu-north-1",
            ])
            .args(["--port", &address.to_string(), "--quiet"])
            .args(["posix", "--sidecar"])
            // It resolves a relative path below the buckets.
            .args(["beside", "buckets"].map(|name| folder.path().join(name)))
            .stdout(Stdio::null())
            // Its log contains errors that tests cause on purpose.
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} does not start: {error}\nhint: make/versitygw.sh",
                    program.display()
                )
            });
        let mut server = Self {
            child,
            endpoint: format!("http://{address}"),
            _folder: folder,
            _port: port,
        };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < TEST_TIMEOUT,
                "versitygw: {ended:?}"
            );
            std::thread::yield_now();
        }
        server
    }
}
