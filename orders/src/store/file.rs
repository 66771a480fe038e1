//! The file store: one JSON file an order, in one folder.
//!
//! Owns the durability recipe and nothing else: write a temporary file, fsync it, link it to its
//! final name (which refuses a taken name, where rename would overwrite), fsync the folder. A
//! crash leaves either the whole order or a temporary file that is removed at the next start.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::{OnceCell, Semaphore};

use super::{CreateError, Entry, Kept, Store};
use crate::order::{Order, OrderId};

/// How many files are written at once: more would only queue in the disk, and cost a thread each.
const WRITERS: usize = 16;

/// Start of the name of everything in the folder that is not an order yet.
const TEMPORARY: &str = ".tmp-";

/// A folder of orders.
#[derive(Debug)]
pub struct FileStore {
    folder: Arc<PathBuf>,
    writers: Arc<Semaphore>,
    swept: OnceCell<()>,
}

impl FileStore {
    /// A store in `folder`, which is made at the first probe or order.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder: Arc::new(folder),
            writers: Arc::new(Semaphore::new(WRITERS)),
            swept: OnceCell::new(),
        }
    }

    /// Runs blocking `work` on the folder, bounded, after the folder was made and swept once.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.swept
            .get_or_try_init(|| {
                let folder = Arc::clone(&self.folder);
                async move { tokio::task::spawn_blocking(move || prepare(&folder)).await? }
            })
            .await?;
        let permit = Arc::clone(&self.writers).acquire_owned().await?;
        let folder = Arc::clone(&self.folder);
        tokio::task::spawn_blocking(move || {
            // Held here and not by the caller: a caller that gave up must not free a place whose
            // thread is still stuck in the disk.
            let _permit = permit;
            work(&folder)
        })
        .await?
    }
}

#[async_trait]
impl Store for FileStore {
    async fn create(&self, entry: &Entry) -> Result<Kept, CreateError> {
        let order = &entry.order;
        let id = order.id;
        let content =
            serde_json::to_vec(order).map_err(|error| CreateError::Unavailable(error.into()))?;
        match self
            .on_disk(move |folder| write_new(folder, id, &content))
            .await
        {
            Ok(true) => Ok(Kept::Now),
            Ok(false) => match self.get(id).await {
                Ok(Some(kept)) if kept == *order => Ok(Kept::Now),
                Ok(_) => Err(CreateError::Exists),
                Err(error) => Err(CreateError::Unavailable(error)),
            },
            Err(error) => Err(CreateError::Unavailable(error)),
        }
    }

    async fn get(&self, id: OrderId) -> anyhow::Result<Option<Order>> {
        self.on_disk(move |folder| {
            let path = folder.join(file_name(id));
            let content = match fs::read(&path) {
                Ok(content) => content,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    return Err(error).with_context(|| format!("read {}", path.display()));
                }
            };
            let order = serde_json::from_slice(&content)
                .with_context(|| format!("{} is not an order", path.display()))?;
            Ok(Some(order))
        })
        .await
    }

    async fn list(&self, _: OrderId, _: usize) -> anyhow::Result<Vec<Order>> {
        anyhow::bail!("not listed yet")
    }

    async fn notices(&self, _: usize) -> anyhow::Result<Vec<OrderId>> {
        Ok(Vec::new())
    }

    async fn settle_notice(&self, _: OrderId) -> anyhow::Result<()> {
        Ok(())
    }

    async fn probe(&self) -> anyhow::Result<()> {
        self.on_disk(|folder| {
            let path = folder.join(format!("{TEMPORARY}probe"));
            let written = write_synced(&path, b"probe\n", File::create);
            let removed = fs::remove_file(&path);
            written.and_then(|()| removed.with_context(|| format!("remove {}", path.display())))
        })
        .await
    }
}

fn file_name(id: OrderId) -> String {
    format!("{id}.json")
}

/// Makes the folder and takes away what a crash left half-written. Such an order was never
/// acknowledged.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    let place = || format!("prepare the folder {}", folder.display());
    fs::create_dir_all(folder).with_context(place)?;
    for entry in fs::read_dir(folder).with_context(place)? {
        let entry = entry.with_context(place)?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path()).with_context(place)?;
        }
    }
    Ok(())
}

/// Writes the order, durably; `false` when the id is taken.
fn write_new(folder: &Path, id: OrderId, content: &[u8]) -> anyhow::Result<bool> {
    let path = folder.join(file_name(id));
    // The name has a fresh id of its own, not the order's: two writers of one id must not share it.
    let temporary = folder.join(format!("{TEMPORARY}{}", OrderId::new()));
    let linked = write_synced(&temporary, content, File::create_new).and_then(|()| {
        match fs::hard_link(&temporary, &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
        }
    });
    let removed = fs::remove_file(&temporary);
    if linked? {
        removed.with_context(|| format!("remove {}", temporary.display()))?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("sync the folder {}", folder.display()))?;
        return Ok(true);
    }
    Ok(false)
}

fn write_synced(
    path: &Path,
    content: &[u8],
    create: impl FnOnce(PathBuf) -> std::io::Result<File>,
) -> anyhow::Result<()> {
    create(path.to_owned())
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/on/first/use");
        contract::holds(&|| Box::new(FileStore::new(path.clone()))).await;
    }

    #[tokio::test]
    async fn sweeps_what_a_crash_left_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".tmp-0190"), b"{\"na").unwrap();
        fs::write(folder.path().join("kept.json"), b"x").unwrap();
        FileStore::new(folder.path().to_owned())
            .probe()
            .await
            .unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["kept.json"]);
    }

    #[tokio::test]
    async fn says_which_place_does_not_work() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let store = FileStore::new(file.join("below"));
        let error = format!("{:#}", store.probe().await.unwrap_err());
        assert!(
            error.contains("prepare the folder") && error.contains("file/below"),
            "{error}"
        );
        let order = contract::order("Ada").into();
        assert!(matches!(
            store.create(&order).await,
            Err(CreateError::Unavailable(_))
        ));
        // It recovers by itself when the place does.
        fs::remove_file(&file).unwrap();
        store.probe().await.unwrap();
        store.create(&order).await.unwrap();
    }
}
