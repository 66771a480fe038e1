//! Candidates in a DynamoDB table with the one key `CandidateName`, as the candidate service had it.
//!
//! Makes do with what the role of that service allows: `PutItem`, `Query`, `Scan`.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::Candidates;
use crate::aws::Aws;
use crate::aws::table::{Table, text};

const KEY: &str = "CandidateName";

/// Candidates in a table.
#[derive(Debug)]
pub struct DynamoDbCandidates {
    table: Table,
}

impl DynamoDbCandidates {
    /// Candidates in `table`.
    #[must_use]
    pub fn new(table: String, aws: Aws) -> Self {
        Self {
            table: Table::new(table, aws),
        }
    }

    async fn call(&self, action: &str, body: Value) -> anyhow::Result<Value> {
        let answer = self.table.call(action, body).await;
        answer.map_err(|error| self.table.explain(action, error))
    }
}

#[async_trait]
impl Candidates for DynamoDbCandidates {
    async fn put(&self, name: &str) -> anyhow::Result<()> {
        self.call("PutItem", json!({ "Item": { KEY: { "S": name } } }))
            .await?;
        Ok(())
    }

    async fn has(&self, name: &str) -> anyhow::Result<bool> {
        let body = json!({
            "KeyConditionExpression": format!("{KEY} = :name"),
            "ExpressionAttributeValues": { ":name": { "S": name } },
            "ConsistentRead": true,
        });
        let answer = self.call("Query", body).await?;
        Ok(answer["Items"]
            .as_array()
            .is_some_and(|items| !items.is_empty()))
    }

    async fn all(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut body = json!({ "ConsistentRead": true });
        loop {
            // One page has at most a megabyte.
            let mut answer = self.call("Scan", body.clone()).await?;
            let items = answer["Items"].as_array();
            names.extend(
                items
                    .into_iter()
                    .flatten()
                    .map(|item| text(item, KEY).to_owned()),
            );
            match answer.get_mut("LastEvaluatedKey").map(Value::take) {
                None | Some(Value::Null) => return Ok(names),
                Some(last) => body["ExclusiveStartKey"] = last,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moto::Moto;

    #[tokio::test]
    async fn keeps_names_once_and_gives_all_of_them_over_pages() {
        let moto = Moto::start();
        moto.make_table("Candidates", &[KEY]).await;
        let aws = Aws::new(Moto::settings(&moto.endpoint));
        let open = || DynamoDbCandidates::new("Candidates".into(), aws.clone());
        let candidates = open();
        assert_eq!(candidates.all().await.unwrap(), Vec::<String>::new());
        assert!(!candidates.has("John Smith").await.unwrap());
        candidates.put("John Smith").await.unwrap();
        candidates.put("John Smith").await.unwrap();
        assert!(open().has("John Smith").await.unwrap());
        assert!(!open().has("John").await.unwrap());
        // More than one page holds.
        let mut names: Vec<String> = (0..600)
            .map(|n| format!("{n:04}{}", "é".repeat(1000)))
            .collect();
        for name in &names {
            candidates.put(name).await.unwrap();
        }
        names.push("John Smith".to_owned());
        let mut all = open().all().await.unwrap();
        all.sort();
        assert_eq!(all, names);
        // Longer than a key may be.
        assert!(candidates.put(&"x".repeat(2049)).await.is_err());
    }
}
