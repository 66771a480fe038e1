//! Addresses of stores of orders and candidates, parsed once. Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;

/// Name of the file store's file in its folder.
pub const FILE_STORE: &str = "orders.redb";

const HINT: &str = "hint: write file:///var/lib/orders, s3://bucket/prefix, dynamodb://table, \
    sqlite:///path/orders.db, mysql://user@host/database or postgres://user@host/database";

/// Where orders are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A folder: `file:///path`.
    File(PathBuf),
    /// A bucket: `s3://bucket/prefix`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Prefix of every key, without a slash at either end; may be empty.
        prefix: String,
    },
    /// A table: `dynamodb://table`.
    DynamoDb {
        /// The table's name.
        table: String,
    },
    /// A SQL database: `sqlite:///path`, `mysql://…` (MariaDB too), `postgres://…`.
    Sql(SqlAddress),
}

/// A SQL database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlAddress {
    /// The database engine.
    pub engine: Engine,
    /// The URL for sqlx. Never contains a password: that comes from a file.
    pub url: String,
}

/// The supported SQL databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file on this machine.
    Sqlite,
    /// MySQL 8 or MariaDB 10.5, or newer.
    MySql,
    /// PostgreSQL 12 or newer.
    Postgres,
}

impl FromStr for StoreAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            bail!("store {text:?} has no scheme\n{HINT}");
        };
        match scheme {
            "file" => {
                if !rest.starts_with('/') {
                    bail!("store {text:?} is not an absolute path\n{HINT}");
                }
                Ok(Self::File(PathBuf::from(rest)))
            }
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let fits =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
                if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) {
                    bail!("store {text:?} has no valid bucket name\n{HINT}");
                }
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    prefix: prefix.trim_matches('/').to_owned(),
                })
            }
            "dynamodb" => Ok(Self::DynamoDb {
                table: table(text, rest)?,
            }),
            "sqlite" => {
                if !rest.starts_with('/') {
                    bail!("store {text:?} is not an absolute path\n{HINT}");
                }
                Ok(Self::sql(Engine::Sqlite, text))
            }
            "mysql" | "mariadb" | "postgres" | "postgresql" => {
                // The last @ ends the user, since host names contain none.
                let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
                let (_, options) = rest.split_once('?').unwrap_or_default();
                if user.contains(':') || options.contains("password=") {
                    bail!(
                        "store {scheme}://… contains a password, which others can read in the list of \
                         processes\nhint: leave it out, and name a file with it in store_password_file"
                    );
                }
                if scheme.starts_with("postgres") {
                    Ok(Self::sql(Engine::Postgres, &format!("postgres://{rest}")))
                } else {
                    Ok(Self::sql(Engine::MySql, &format!("mysql://{rest}")))
                }
            }
            _ => bail!("store {text:?} has an unknown scheme\n{HINT}"),
        }
    }
}

impl StoreAddress {
    /// The file that contains the orders, if it is a single one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(folder) => Some(folder.join(FILE_STORE)),
            Self::Sql(SqlAddress {
                engine: Engine::Sqlite,
                url,
            }) => url.strip_prefix("sqlite://").map(PathBuf::from),
            _ => None,
        }
    }

    fn sql(engine: Engine, url: &str) -> Self {
        Self::Sql(SqlAddress {
            engine,
            url: url.to_owned(),
        })
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(folder) => write!(f, "file://{}", folder.display()),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::DynamoDb { table } => write!(f, "dynamodb://{table}"),
            Self::Sql(address) => f.write_str(&address.url),
        }
    }
}

/// Where candidates are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CandidatesAddress {
    /// In the embedded store, next to the orders.
    Embedded,
    /// In a DynamoDB table with the key `CandidateName`.
    DynamoDb {
        /// The table's name.
        table: String,
    },
}

impl FromStr for CandidatesAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once("://") {
            None if text == "embedded" => Ok(Self::Embedded),
            Some(("dynamodb", rest)) => Ok(Self::DynamoDb {
                table: table(text, rest)?,
            }),
            _ => bail!(
                "candidates {text:?} is unknown\nhint: write embedded or dynamodb://Candidates"
            ),
        }
    }
}

/// Validates a DynamoDB table name.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>
fn table(text: &str, name: &str) -> anyhow::Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !(3..=255).contains(&name.len()) || !name.chars().all(fits) {
        bail!("{text:?} has no valid table name\nhint: use 3 to 255 letters, digits, _, - and .");
    }
    Ok(name.to_owned())
}
