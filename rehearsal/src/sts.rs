//! STS: only the identity of the caller. There are no roles and no sessions.

use crate::account::ACCOUNT;
use crate::permissions::caller;
use crate::request::RequestContext;
use crate::wire::Xml;

/// GetCallerIdentity: every caller is the account's one user.
pub(crate) fn caller_identity(_ctx: &RequestContext) -> Xml {
    let mut xml = Xml::new();
    xml.text("Arn", caller())
        .text("UserId", "AIDAREHEARSAL0000000")
        .text("Account", ACCOUNT);
    xml
}
