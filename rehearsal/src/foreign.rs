//! Requests for services that this cloud does not implement itself: which of them `moto` answers, and in what form the
//! others are refused.
//!
//! Rule: each call that goes to `moto` is on the list here, because its effect there is the one on AWS as far as a
//! caller can observe. All others are refused by name, in the protocol of the request: a call that is accepted and has
//! no effect (a scaling alarm, a stack whose resources do not exist) is worse than one that fails.

use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};

use crate::wire::error::Protocol;
use crate::wire::{ApiError, Params, Xml};

/// A service that `moto` answers.
struct Service {
    /// Its name in a credential scope.
    scope: &'static str,
    /// Its name in IAM's actions.
    prefix: &'static str,
    /// The calls; a `*` at the end matches any suffix. None for S3, whose calls are HTTP methods: see [`S3::refused`].
    calls: &'static [&'static str],
}

const SERVICES: [Service; 10] = [
    Service {
        scope: "s3",
        prefix: "s3",
        calls: &[],
    },
    Service {
        scope: "monitoring",
        prefix: "cloudwatch",
        calls: &[
            "PutMetricData",
            "GetMetricData",
            "GetMetricStatistics",
            "ListMetrics",
            // Kept and shown; alarms with actions are refused, see [`acts`].
            "PutMetricAlarm",
            "DescribeAlarms",
            "DescribeAlarmsForMetric",
            "DeleteAlarms",
            "SetAlarmState",
            "PutDashboard",
            "GetDashboard",
            "ListDashboards",
            "DeleteDashboards",
            "ListTagsForResource",
            "TagResource",
            "UntagResource",
        ],
    },
    Service {
        scope: "dynamodb",
        prefix: "dynamodb",
        calls: &[
            "CreateTable",
            "UpdateTable",
            "DeleteTable",
            "DescribeTable",
            "ListTables",
            "DescribeContinuousBackups",
            "DescribeTimeToLive",
            "UpdateTimeToLive",
            "ListTagsOfResource",
            "TagResource",
            "UntagResource",
            "GetItem",
            "PutItem",
            "UpdateItem",
            "DeleteItem",
            "Query",
            "Scan",
            "BatchGetItem",
            "BatchWriteItem",
            "TransactGetItems",
            "TransactWriteItems",
            "ExecuteStatement",
            // Calls on its streams.
            "ListStreams",
            "DescribeStream",
            "GetShardIterator",
            "GetRecords",
        ],
    },
    Service {
        scope: "iam",
        prefix: "iam",
        calls: &[
            "CreateRole",
            "CreatePolicy*",
            "CreateInstanceProfile",
            "CreateUser",
            "CreateGroup",
            "CreateAccessKey",
            "CreateServiceLinkedRole",
            "DeleteRole*",
            "DeletePolicy*",
            "DeleteInstanceProfile",
            "DeleteUser*",
            "DeleteGroup*",
            "DeleteAccessKey",
            "GetRole*",
            "GetPolicy*",
            "GetInstanceProfile",
            "GetUser*",
            "GetGroup*",
            "ListRole*",
            "ListPolicies",
            "ListPolicyVersions",
            "ListPolicyTags",
            "ListInstanceProfile*",
            "ListUser*",
            "ListGroup*",
            "ListAccessKeys",
            "ListAttached*",
            "ListEntitiesForPolicy",
            "ListAccountAliases",
            "PutRolePolicy",
            "PutUserPolicy",
            "PutGroupPolicy",
            "AttachRolePolicy",
            "AttachUserPolicy",
            "AttachGroupPolicy",
            "DetachRolePolicy",
            "DetachUserPolicy",
            "DetachGroupPolicy",
            "AddRoleToInstanceProfile",
            "AddUserToGroup",
            "RemoveRoleFromInstanceProfile",
            "RemoveUserFromGroup",
            "SetDefaultPolicyVersion",
            "UpdateRole*",
            "UpdateAssumeRolePolicy",
            "TagRole",
            "TagPolicy",
            "TagInstanceProfile",
            "TagUser",
            "UntagRole",
            "UntagPolicy",
            "UntagInstanceProfile",
            "UntagUser",
        ],
    },
    Service {
        scope: "kms",
        prefix: "kms",
        calls: &[
            "CreateKey",
            "DescribeKey",
            "ListKeys",
            "EnableKey",
            "DisableKey",
            "ScheduleKeyDeletion",
            "CancelKeyDeletion",
            "CreateAlias",
            "UpdateAlias",
            "DeleteAlias",
            "ListAliases",
            "GetKeyPolicy",
            "PutKeyPolicy",
            "ListKeyPolicies",
            "GetKeyRotationStatus",
            "UpdateKeyDescription",
            "ListResourceTags",
            "TagResource",
            "UntagResource",
            "Encrypt",
            "Decrypt",
            "ReEncrypt",
            "GenerateDataKey*",
            "GenerateRandom",
            "GenerateMac",
            "VerifyMac",
            "Sign",
            "Verify",
            "GetPublicKey",
        ],
    },
    Service {
        scope: "sns",
        prefix: "sns",
        calls: &[
            "CreateTopic",
            "DeleteTopic",
            "ListTopics",
            "GetTopicAttributes",
            "SetTopicAttributes",
            "Subscribe",
            "ConfirmSubscription",
            "Unsubscribe",
            "ListSubscriptions*",
            "GetSubscriptionAttributes",
            "SetSubscriptionAttributes",
            "Publish*",
            "ListTagsForResource",
            "TagResource",
            "UntagResource",
        ],
    },
    Service {
        scope: "sqs",
        prefix: "sqs",
        calls: &[
            "CreateQueue",
            "DeleteQueue",
            "PurgeQueue",
            "ListQueues",
            "GetQueueUrl",
            "GetQueueAttributes",
            "SetQueueAttributes",
            "SendMessage*",
            "ReceiveMessage",
            "DeleteMessage*",
            "ChangeMessageVisibility*",
            "ListQueueTags",
            "TagQueue",
            "UntagQueue",
        ],
    },
    Service {
        scope: "logs",
        prefix: "logs",
        calls: &[
            "CreateLogGroup",
            "DeleteLogGroup",
            "DescribeLogGroups",
            "PutRetentionPolicy",
            "DeleteRetentionPolicy",
            "CreateLogStream",
            "DeleteLogStream",
            "DescribeLogStreams",
            "PutLogEvents",
            "GetLogEvents",
            "FilterLogEvents",
            "ListTags*",
            "TagLogGroup",
            "TagResource",
            "UntagLogGroup",
            "UntagResource",
        ],
    },
    Service {
        scope: "secretsmanager",
        prefix: "secretsmanager",
        calls: &[
            "CreateSecret",
            "UpdateSecret",
            "DeleteSecret",
            "RestoreSecret",
            "DescribeSecret",
            "ListSecret*",
            "GetSecretValue",
            "BatchGetSecretValue",
            "PutSecretValue",
            "GetRandomPassword",
            "GetResourcePolicy",
            "TagResource",
            "UntagResource",
        ],
    },
    // The service name in old clients' signatures for CloudWatch.
    Service {
        scope: "cloudwatch",
        prefix: "cloudwatch",
        calls: &["PutMetricData", "GetMetricStatistics", "ListMetrics"],
    },
];

/// The services that `moto` answers, by their names in a credential scope.
pub(crate) fn scopes() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|service| service.scope)
}

/// A service's name in IAM's actions, by its name in a credential scope.
pub(crate) fn prefix(scope: &str) -> &str {
    SERVICES
        .iter()
        .find(|service| service.scope == scope)
        .map_or(scope, |service| service.prefix)
}

/// The protocol of a request to another service, and of its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// S3's own XML.
    S3,
    /// The query protocol.
    Query,
    /// JSON, with the action in `X-Amz-Target`.
    Json,
    /// JSON, with the action in method and path.
    RestJson,
    /// XML, with the action in method and path.
    RestXml,
    /// Smithy's RPC over CBOR.
    Cbor,
}

/// Services of the REST protocol over XML, besides S3.
const REST_XML: [&str; 2] = ["cloudfront", "route53"];

impl Form {
    /// The form of a request to the service `scope`.
    pub(crate) fn of<B>(scope: Option<&str>, request: &Request<B>) -> Self {
        let header = |name: &str| {
            let value = request.headers().get(name)?;
            value.to_str().ok()
        };
        let kind = request.headers().get(CONTENT_TYPE);
        let is_form = kind.is_some_and(|kind| {
            kind.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        });
        match scope {
            None | Some("s3") => Self::S3,
            Some(_) if header("smithy-protocol") == Some("rpc-v2-cbor") => Self::Cbor,
            Some(_) if header("x-amz-target").is_some() => Self::Json,
            Some(_) if is_form => Self::Query,
            Some(name) if REST_XML.contains(&name) => Self::RestXml,
            Some(_) => Self::RestJson,
        }
    }

    /// The action, where the request's head contains it; in the query protocol the body does.
    pub(crate) fn action<B>(self, request: &Request<B>) -> Option<String> {
        match self {
            Self::S3 | Self::RestJson | Self::RestXml => Some(request.method().to_string()),
            Self::Query => None,
            Self::Json => {
                let target = request.headers().get("x-amz-target")?.to_str().ok()?;
                target.rsplit('.').next().map(str::to_owned)
            }
            Self::Cbor => {
                let path = request.uri().path();
                path.rsplit_once("/operation/")
                    .map(|(_, action)| action.to_owned())
            }
        }
    }

    /// The throttling error of a service of this form.
    pub(crate) fn throttled(self) -> ApiError {
        match self {
            Self::S3 => {
                ApiError::new("SlowDown", "Please reduce your request rate.").with_status(503)
            }
            Self::Query | Self::RestXml => ApiError::new("Throttling", "Rate exceeded"),
            Self::Json | Self::RestJson | Self::Cbor => {
                ApiError::new("ThrottlingException", "Rate exceeded")
            }
        }
    }

    /// The access-denied error of a service of this form.
    pub(crate) fn denied(self, message: String) -> ApiError {
        match self {
            Self::S3 | Self::Query | Self::RestXml => {
                ApiError::new("AccessDenied", message).with_status(403)
            }
            Self::Json | Self::RestJson | Self::Cbor => {
                ApiError::new("AccessDeniedException", message)
            }
        }
    }

    /// An error's content type and body.
    pub(crate) fn render(self, error: &ApiError, request_id: &str) -> (&'static str, Vec<u8>) {
        let text = |(kind, body): (&'static str, String)| (kind, body.into_bytes());
        match self {
            Self::S3 => {
                let mut xml = Xml::new();
                xml.node("Error", |x| {
                    x.text("Code", &error.code)
                        .text("Message", &error.message)
                        .text("RequestId", request_id);
                });
                ("application/xml", xml.into_string().into_bytes())
            }
            Self::Query | Self::RestXml => text(error.render(Protocol::Query, request_id)),
            Self::Json | Self::RestJson => text(error.render(Protocol::Json, request_id)),
            Self::Cbor => {
                // A map of two entries (RFC 8949, §3.1), each a text and a text.
                let mut body = vec![0xa2];
                for part in ["__type", &*error.code, "message", &error.message] {
                    cbor_text(&mut body, part);
                }
                ("application/cbor", body)
            }
        }
    }
}

/// CloudWatch's DescribeAlarms over CBOR, answered from the dials `alarm.…`. `None` for another call.
pub(crate) fn describe_alarms<'a>(
    call: &Call<'_>,
    alarms: impl Iterator<Item = (&'a str, &'static str)>,
) -> Option<Vec<u8>> {
    if (call.scope, call.form, call.action)
        != (Some("monitoring"), Form::Cbor, Some("DescribeAlarms"))
    {
        return None;
    }
    let encoded = |text: &str| {
        let mut bytes = Vec::new();
        cbor_text(&mut bytes, text);
        bytes
    };
    let asks = |text: &str| {
        let bytes = encoded(text);
        call.body.windows(bytes.len()).any(|part| part == bytes)
    };
    let named = asks("AlarmNames");
    // A map of one entry: an array without a length, of maps of two entries each (RFC 8949, §3.2.2).
    let mut body = vec![0xa1];
    body.extend(encoded("MetricAlarms"));
    body.push(0x9f);
    for (name, state) in alarms.filter(|(name, _)| !named || asks(name)) {
        body.push(0xa2);
        for text in ["AlarmName", name, "StateValue", state] {
            body.extend(encoded(text));
        }
    }
    body.push(0xff);
    Some(body)
}

fn cbor_text(body: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(short) if short < 24 => body.push(0x60 | short),
        Ok(length) => body.extend([0x78, length]),
        Err(_) => {
            let cut = text.floor_char_boundary(usize::from(u16::MAX));
            let length = u16::try_from(cut).unwrap_or(u16::MAX);
            body.push(0x79);
            body.extend(length.to_be_bytes());
            body.extend_from_slice(&text.as_bytes()[..cut]);
            return;
        }
    }
    body.extend_from_slice(text.as_bytes());
}

/// An S3 request, from its head.
#[derive(Debug)]
pub(crate) struct S3<'a> {
    method: &'a Method,
    has_bucket: bool,
    has_key: bool,
    /// Names of the query's parameters.
    parameters: Vec<String>,
}

/// IAM's names of GET, PUT and DELETE of a bucket's subresources; those of an object contain `Object`.
const SUBRESOURCES: [(&str, &str, &str, &str); 15] = [
    (
        "policy",
        "GetBucketPolicy",
        "PutBucketPolicy",
        "DeleteBucketPolicy",
    ),
    ("acl", "GetBucketAcl", "PutBucketAcl", "PutBucketAcl"),
    (
        "versioning",
        "GetBucketVersioning",
        "PutBucketVersioning",
        "PutBucketVersioning",
    ),
    (
        "tagging",
        "GetBucketTagging",
        "PutBucketTagging",
        "PutBucketTagging",
    ),
    (
        "lifecycle",
        "GetLifecycleConfiguration",
        "PutLifecycleConfiguration",
        "PutLifecycleConfiguration",
    ),
    ("cors", "GetBucketCORS", "PutBucketCORS", "PutBucketCORS"),
    (
        "encryption",
        "GetEncryptionConfiguration",
        "PutEncryptionConfiguration",
        "PutEncryptionConfiguration",
    ),
    (
        "publicAccessBlock",
        "GetBucketPublicAccessBlock",
        "PutBucketPublicAccessBlock",
        "PutBucketPublicAccessBlock",
    ),
    (
        "ownershipControls",
        "GetBucketOwnershipControls",
        "PutBucketOwnershipControls",
        "PutBucketOwnershipControls",
    ),
    (
        "object-lock",
        "GetBucketObjectLockConfiguration",
        "PutBucketObjectLockConfiguration",
        "PutBucketObjectLockConfiguration",
    ),
    (
        "location",
        "GetBucketLocation",
        "GetBucketLocation",
        "GetBucketLocation",
    ),
    (
        "versions",
        "ListBucketVersions",
        "ListBucketVersions",
        "ListBucketVersions",
    ),
    (
        "uploads",
        "ListBucketMultipartUploads",
        "PutObject",
        "ListBucketMultipartUploads",
    ),
    (
        "retention",
        "GetObjectRetention",
        "PutObjectRetention",
        "PutObjectRetention",
    ),
    (
        "legal-hold",
        "GetObjectLegalHold",
        "PutObjectLegalHold",
        "PutObjectLegalHold",
    ),
];

impl<'a> S3<'a> {
    /// Reads a request's head.
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        let path = request.uri().path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = request.uri().query().unwrap_or_default();
        Self {
            method: request.method(),
            has_bucket: !bucket.is_empty(),
            has_key: !key.is_empty(),
            parameters: form_urlencoded::parse(query.as_bytes())
                .map(|(name, _)| name.into_owned())
                .collect(),
        }
    }

    fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|name| name == parameter)
    }

    /// Its action in IAM, without `s3:`.
    pub(crate) fn action(&self) -> &'static str {
        if !self.has_bucket {
            return "ListAllMyBuckets";
        }
        let is_read = [Method::GET, Method::HEAD].contains(self.method);
        let is_delete = *self.method == Method::DELETE;
        if self.has_key {
            let of_object = match () {
                () if self.has("acl") => Some(["GetObjectAcl", "PutObjectAcl", "PutObjectAcl"]),
                () if self.has("tagging") => Some([
                    "GetObjectTagging",
                    "PutObjectTagging",
                    "DeleteObjectTagging",
                ]),
                () if self.has("uploadId") => Some([
                    "ListMultipartUploadParts",
                    "PutObject",
                    "AbortMultipartUpload",
                ]),
                () if self.has("retention") || self.has("legal-hold") => None,
                () => Some(["GetObject", "PutObject", "DeleteObject"]),
            };
            if let Some([read, write, delete]) = of_object {
                return match (is_read, is_delete) {
                    (true, _) => read,
                    (_, true) => delete,
                    _ => write,
                };
            }
        }
        for (name, read, write, delete) in SUBRESOURCES {
            if self.has(name) {
                return match (is_read, is_delete) {
                    (true, _) => read,
                    (_, true) => delete,
                    _ => write,
                };
            }
        }
        match (is_read, is_delete, self.has("delete")) {
            (true, ..) => "ListBucket",
            (_, true, _) => "DeleteBucket",
            (_, _, true) => "DeleteObject",
            _ => "CreateBucket",
        }
    }

    /// The subresource that moto would accept without any effect, when the request writes one.
    fn refused(&self) -> Option<&str> {
        if [Method::GET, Method::HEAD, Method::DELETE].contains(self.method) {
            return None;
        }
        let is_known = |name: &str| {
            let lower = name.to_ascii_lowercase();
            lower.starts_with("x-")
                || ["uploadid", "partnumber", "versionid", "delete"].contains(&lower.as_str())
                || ["awsaccesskeyid", "signature", "expires"].contains(&lower.as_str())
                || SUBRESOURCES.iter().any(|(known, ..)| *known == name)
        };
        let unknown = self.parameters.iter().find(|name| !is_known(name));
        unknown.map(String::as_str)
    }
}

/// A request for a service that this cloud does not implement.
pub(crate) struct Call<'a> {
    /// The service it was signed for; none for an anonymous one.
    pub(crate) scope: Option<&'a str>,
    /// Its form.
    pub(crate) form: Form,
    /// Its action.
    pub(crate) action: Option<&'a str>,
    /// Its parts, for S3.
    pub(crate) s3: Option<S3<'a>>,
    /// Its body, when it was read: see [`Call::is_read`].
    pub(crate) body: &'a [u8],
}

impl Call<'_> {
    /// Whether the body of such a request must be read to find its action.
    pub(crate) fn is_read(form: Form, action: Option<&str>) -> bool {
        form == Form::Query
            || action == Some("PutMetricAlarm")
            || form == Form::Cbor && action == Some("DescribeAlarms")
    }

    /// Its action in IAM, e.g. `s3:GetObject`.
    pub(crate) fn permission(&self) -> Option<String> {
        match (&self.s3, self.scope, self.action) {
            (Some(s3), ..) => Some(format!("s3:{}", s3.action())),
            (None, Some(scope), Some(action)) => Some(format!("{}:{action}", prefix(scope))),
            _ => None,
        }
    }

    /// Refuses calls that moto does not really implement.
    ///
    /// # Errors
    /// `NotImplemented`, with the name of the call.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if let Some(s3) = &self.s3 {
            return match s3.refused() {
                Some(name) => Err(not_done(&format!("s3's {name}"))),
                None => Ok(()),
            };
        }
        let scope = self.scope.unwrap_or_default();
        let Some(service) = SERVICES.iter().find(|service| service.scope == scope) else {
            return Err(not_done(&format!("the service {scope}")));
        };
        let action = self.action.unwrap_or_default();
        let is_done = service
            .calls
            .iter()
            .any(|call| match call.strip_suffix('*') {
                Some(start) => action.starts_with(start),
                None => *call == action,
            });
        if !is_done {
            return Err(not_done(&format!("{}:{action}", service.prefix)));
        }
        if action == "PutMetricAlarm" && acts(self.form, self.body) {
            return Err(not_done(
                "an alarm with actions (cloudwatch:PutMetricAlarm)",
            ));
        }
        Ok(())
    }
}

/// Whether an alarm has actions, in any form of its request.
fn acts(form: Form, body: &[u8]) -> bool {
    const LISTS: [&str; 3] = ["AlarmActions", "OKActions", "InsufficientDataActions"];
    match form {
        Form::Query => {
            let params = Params::parse(body);
            LISTS.iter().any(|list| !params.list(list).is_empty())
        }
        Form::Cbor => LISTS.iter().any(|list| {
            let mut key = Vec::new();
            cbor_text(&mut key, list);
            let mut found = body.windows(key.len() + 1);
            // An empty array follows (RFC 8949, §3.2.2), or one with something in it.
            found.any(|part| part.starts_with(&key) && part[key.len()] != 0x80)
        }),
        _ => {
            let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            LISTS.iter().any(|list| {
                let list = json[list].as_array();
                list.is_some_and(|list| !list.is_empty())
            })
        }
    }
}

fn not_done(what: &str) -> ApiError {
    ApiError::new(
        "NotImplemented",
        format!("{what} is not part of the rehearsal cloud; see docs/fidelity.md"),
    )
    .with_status(501)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scope: &str, form: Form, action: &str, body: &[u8]) -> Result<(), String> {
        let call = Call {
            scope: Some(scope),
            form,
            action: Some(action),
            s3: None,
            body,
        };
        call.check().map_err(|error| error.message)
    }

    #[test]
    fn calls_without_effect_in_moto_are_refused_by_name() {
        for (scope, action, named) in [
            ("dynamodb", "PutItem", None),
            ("iam", "ListRolePolicies", None),
            ("sns", "PublishBatch", None),
            ("cloudformation", "CreateStack", Some("cloudformation")),
            ("organizations", "ListRoots", Some("organizations")),
            ("ebs", "GET", Some("the service ebs")),
            (
                "monitoring",
                "PutCompositeAlarm",
                Some("cloudwatch:PutCompositeAlarm"),
            ),
            (
                "iam",
                "SimulateCustomPolicy",
                Some("iam:SimulateCustomPolicy"),
            ),
        ] {
            let checked = check(scope, Form::Json, action, b"");
            match named {
                None => assert_eq!(checked, Ok(()), "{scope} {action}"),
                Some(name) => {
                    let message = checked.expect_err(action);
                    assert!(message.contains(name), "{message}");
                }
            }
        }
    }

    #[test]
    fn an_alarm_with_actions_is_refused_in_every_form() {
        let cbor = |list: &[u8]| {
            let mut body = vec![0xa1];
            cbor_text(&mut body, "AlarmActions");
            body.extend_from_slice(list);
            body
        };
        for (form, body, acts) in [
            (Form::Query, b"AlarmName=a".to_vec(), false),
            (Form::Query, b"OKActions.member.1=arn".to_vec(), true),
            (Form::Json, br#"{"AlarmActions": []}"#.to_vec(), false),
            (
                Form::Json,
                br#"{"InsufficientDataActions": ["arn"]}"#.to_vec(),
                true,
            ),
            (Form::Cbor, cbor(&[0x80]), false),
            (Form::Cbor, cbor(&[0x81, 0x61, b'a']), true),
        ] {
            let checked = check("monitoring", form, "PutMetricAlarm", &body);
            assert_eq!(checked.is_err(), acts, "{form:?} {body:?}");
        }
    }

    #[test]
    fn an_s3_request_has_its_name_in_iam() {
        for (method, uri, action, refused) in [
            ("GET", "/", "ListAllMyBuckets", None),
            ("GET", "/b?list-type=2", "ListBucket", None),
            ("HEAD", "/b/k", "GetObject", None),
            ("PUT", "/b/k?x-id=PutObject", "PutObject", None),
            ("POST", "/b/k?uploads", "PutObject", None),
            ("DELETE", "/b/k?uploadId=1", "AbortMultipartUpload", None),
            ("POST", "/b?delete", "DeleteObject", None),
            ("PUT", "/b/", "CreateBucket", None),
            ("PUT", "/b?policy", "PutBucketPolicy", None),
            ("PUT", "/b/k?tagging", "PutObjectTagging", None),
            ("GET", "/b?replication", "ListBucket", None),
            ("PUT", "/b?replication", "CreateBucket", Some("replication")),
            (
                "PUT",
                "/b?notification",
                "CreateBucket",
                Some("notification"),
            ),
            ("POST", "/b/k?restore", "PutObject", Some("restore")),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let s3 = S3::of(&request);
            assert_eq!(s3.action(), action, "{method} {uri}");
            assert_eq!(s3.refused(), refused, "{method} {uri}");
        }
    }

    #[test]
    fn each_form_is_found_and_refused_in_its_own() {
        let error = ApiError::new("NotImplemented", "é".repeat(200));
        for (scope, header, form, kind, text) in [
            (
                Some("s3"),
                ("a", "b"),
                Form::S3,
                "application/xml",
                "<Code>",
            ),
            (
                Some("iam"),
                (
                    "content-type",
                    "application/x-www-form-urlencoded; charset=utf-8",
                ),
                Form::Query,
                "text/xml",
                "<ErrorResponse>",
            ),
            (
                Some("kms"),
                ("x-amz-target", "TrentService.Sign"),
                Form::Json,
                "application/x-amz-json-1.1",
                "__type",
            ),
            (
                Some("monitoring"),
                ("smithy-protocol", "rpc-v2-cbor"),
                Form::Cbor,
                "application/cbor",
                "NotImplemented",
            ),
            (
                Some("ebs"),
                ("a", "b"),
                Form::RestJson,
                "application/x-amz-json-1.1",
                "__type",
            ),
            (
                Some("route53"),
                ("a", "b"),
                Form::RestXml,
                "text/xml",
                "<ErrorResponse>",
            ),
        ] {
            let request = Request::builder()
                .header(header.0, header.1)
                .body(())
                .unwrap();
            assert_eq!(Form::of(scope, &request), form, "{scope:?}");
            let (found, body) = form.render(&error, "r-1");
            assert_eq!(found, kind, "{form:?}");
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(
                body.contains(text) && body.contains("éé"),
                "{form:?}: {body}"
            );
        }
        let request =
            Request::post("/service/GraniteServiceVersion20100801/operation/PutMetricData");
        let request = request.body(()).unwrap();
        assert_eq!(
            Form::Cbor.action(&request).as_deref(),
            Some("PutMetricData")
        );
    }
}
