//! The contract suite on every database.

use std::path::Path;

use crate::settings::{Engine, SqlAddress, SqlSettings, Tls};
use crate::store::contract;
use crate::store::sql::SqlStore;

fn sqlite(path: &Path) -> SqlStore {
    let address = SqlAddress {
        engine: Engine::Sqlite,
        url: format!("sqlite://{}", path.display()),
    };
    SqlStore::new(&address, &settings()).unwrap()
}

fn settings() -> SqlSettings {
    SqlSettings {
        password: None,
        connections: 8,
        tls: Tls::Off,
        ca_file: None,
    }
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/first/use/orders.db");
    contract::holds(&|| Box::new(sqlite(&path))).await;
    contract::keeps_claims(&|| Box::new(sqlite(&path))).await;
    contract::lists_in_order(&|| Box::new(sqlite(&path))).await;
    contract::gives_out_notices(&|| Box::new(sqlite(&path))).await;
    contract::keeps_accounts(&|| Box::new(sqlite(&path))).await;
}
