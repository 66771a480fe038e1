//! The calls on launch templates and their versions.

use std::collections::BTreeMap;

use super::State;
use super::select::{CallSpec, Describe, Filters, Page, maybe, one};
use super::tags;
use super::templates::{Data, Template, Version};
use crate::account::ACCOUNT;
use crate::ids::{Id as _, TemplateId};
use crate::request::RequestContext;
use crate::wire::{ApiError, Params, Xml, iso};

impl State {
    /// The template of that id.
    ///
    /// # Errors
    /// `InvalidLaunchTemplateId.NotFound`.
    pub(crate) fn template_by_id(&self, id: &TemplateId) -> Result<&Template, ApiError> {
        self.templates
            .get(id)
            .ok_or_else(|| unknown_id(id.as_str()))
    }

    /// The template of that name.
    ///
    /// # Errors
    /// `InvalidLaunchTemplateName.NotFoundException`.
    pub(crate) fn template_by_name(&self, name: &str) -> Result<&Template, ApiError> {
        self.templates
            .values()
            .find(|template| template.name == name)
            .ok_or_else(|| unknown_name(name))
    }

    /// The template that `LaunchTemplateId` or `LaunchTemplateName` names.
    ///
    /// # Errors
    /// When neither or both are given, or there is none.
    pub(crate) fn template_named(&self, params: &Params) -> Result<&Template, ApiError> {
        match (
            params.text("LaunchTemplateId"),
            params.text("LaunchTemplateName"),
        ) {
            (Some(id), None) => self.template_by_id(&TemplateId::parse(id)?),
            (None, Some(name)) => self.template_by_name(name),
            (Some(_), Some(_)) => Err(ApiError::new(
                "InvalidParameterCombination",
                "Either the launch template ID or the launch template name must be specified, not both.",
            )),
            (None, None) => Err(ApiError::new(
                "MissingParameter",
                "Either the launch template ID or the launch template name must be specified.",
            )),
        }
    }
}

fn unknown_id(id: &str) -> ApiError {
    ApiError::new(
        "InvalidLaunchTemplateId.NotFound",
        format!("The specified launch template, with template ID {id}, does not exist."),
    )
}

fn unknown_name(name: &str) -> ApiError {
    ApiError::new(
        "InvalidLaunchTemplateName.NotFoundException",
        format!("The specified launch template, with template name {name}, does not exist."),
    )
}

/// CreateLaunchTemplate.
pub(crate) fn create(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let name = params.required("LaunchTemplateName")?;
    let shaped = name.len() >= 3
        && name.len() <= 128
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-_()./".contains(character));
    if !shaped {
        return Err(ApiError::new(
            "InvalidLaunchTemplateName.MalformedException",
            "Launch template names must be between 3 and 128 characters, of letters, digits and - ( ) . / _",
        ));
    }
    if state
        .templates
        .values()
        .any(|template| template.name == name)
    {
        return Err(ApiError::new(
            "InvalidLaunchTemplateName.AlreadyExistsException",
            "Launch template name already in use.",
        ));
    }
    let data = Data::read(params)?;
    if data.0.is_empty() {
        return Err(ApiError::missing("LaunchTemplateData"));
    }
    let tags = tags::specified(params, "launch-template")?;
    let version = Version {
        description: params.string("VersionDescription"),
        created: ctx.now,
        data,
    };
    let template = Template {
        id: TemplateId::fresh(),
        name: name.to_owned(),
        created: ctx.now,
        default: 1,
        last: 1,
        versions: [(1, version)].into(),
    };
    state.tag(&template.id, tags);
    let mut xml = Xml::new();
    xml.node("launchTemplate", |x| write(x, state, &template));
    state.templates.insert(template.id.clone(), template);
    Ok(xml)
}

/// CreateLaunchTemplateVersion.
pub(crate) fn create_version(
    state: &mut State,
    ctx: &RequestContext,
    params: &Params,
) -> Result<Xml, ApiError> {
    let template = state.template_named(params)?;
    let id = template.id.clone();
    let given = Data::read(params)?;
    let data = match params.text("SourceVersion") {
        Some(source) => template.resolve(source)?.1.data.over(&given),
        None => given,
    };
    if data.0.is_empty() {
        return Err(ApiError::missing("LaunchTemplateData"));
    }
    let version = Version {
        description: params.string("VersionDescription"),
        created: ctx.now,
        data,
    };
    let template = state
        .templates
        .get_mut(&id)
        .ok_or_else(|| unknown_id(id.as_str()))?;
    template.last += 1;
    let number = template.last;
    template.versions.insert(number, version.clone());
    let mut xml = Xml::new();
    xml.node("launchTemplateVersion", |x| {
        write_version(x, template, number, &version)
    });
    Ok(xml)
}

/// ModifyLaunchTemplate: only the default version can be changed.
pub(crate) fn modify(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    if params.has("LaunchTemplateId") && params.has("LaunchTemplateName") {
        return Err(ApiError::new(
            "InvalidParameterCombination",
            "Either provide launch template ID or launch template name to modify the template.",
        ));
    }
    let template = state.template_named(params)?;
    let id = template.id.clone();
    let wanted = params
        .text("SetDefaultVersion")
        .or_else(|| params.text("DefaultVersion"))
        .ok_or_else(|| ApiError::missing("SetDefaultVersion"))?;
    let (number, _) = template.resolve(wanted).map_err(|error| {
        ApiError::new(
            error.code,
            format!(
                "The launch template version {wanted} is not found for the specified launch template."
            ),
        )
    })?;
    let template = state
        .templates
        .get_mut(&id)
        .ok_or_else(|| unknown_id(id.as_str()))?;
    template.default = number;
    let template = template.clone();
    let mut xml = Xml::new();
    xml.node("launchTemplate", |x| write(x, state, &template));
    Ok(xml)
}

/// DeleteLaunchTemplate.
pub(crate) fn delete(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let template = state.template_named(params)?.clone();
    let mut xml = Xml::new();
    xml.node("launchTemplate", |x| write(x, state, &template));
    state.templates.remove(&template.id);
    state.tags.remove(template.id.as_str());
    Ok(xml)
}

/// DeleteLaunchTemplateVersions: reports the result for each version.
pub(crate) fn delete_versions(state: &mut State, params: &Params) -> Result<Xml, ApiError> {
    let template = state.template_named(params)?;
    let (id, name, default) = (template.id.clone(), template.name.clone(), template.default);
    let mut wanted = params.strings("LaunchTemplateVersion");
    if wanted.is_empty() {
        wanted = params.strings("Version");
    }
    let mut missing = Vec::new();
    let mut kept = Vec::new();
    for version in wanted {
        match template.resolve(&version) {
            Ok((number, _)) if number == default => {
                kept.push((
                    Some(number),
                    // The code that fits best among AWS's codes for this answer.
                    "unexpectedError",
                    "You can't delete the default version of a launch template; you must first assign a different \
                     version as the default.",
                ));
            }
            Ok((number, _)) => missing.push(number),
            Err(_) => kept.push((
                version.parse().ok(),
                "launchTemplateVersionDoesNotExist",
                "there is no such version",
            )),
        }
    }
    if let Some(template) = state.templates.get_mut(&id) {
        template
            .versions
            .retain(|number, _| !missing.contains(number));
    }
    let mut xml = Xml::new();
    xml.list(
        "successfullyDeletedLaunchTemplateVersionSet",
        "item",
        missing,
        |x, number| {
            x.text("launchTemplateId", &id)
                .text("launchTemplateName", &name)
                .text("versionNumber", number);
        },
    )
    .list(
        "unsuccessfullyDeletedLaunchTemplateVersionSet",
        "item",
        kept,
        |x, (version, code, message)| {
            x.text("launchTemplateId", &id)
                .text("launchTemplateName", &name)
                .maybe("versionNumber", version)
                .node("responseError", |x| {
                    x.text("code", code).text("message", message);
                });
        },
    );
    Ok(xml)
}

pub(super) const TEMPLATES: CallSpec = CallSpec {
    ids: "LaunchTemplateId",
    page: (1, 200),
    filters: &["create-time", "launch-template-name"],
    tags: true,
    ..CallSpec::USUAL
};

pub(super) const VERSIONS: CallSpec = CallSpec {
    page: (1, 200),
    filters: &[
        "create-time",
        "ebs-optimized",
        "http-endpoint",
        "http-protocol-ipv4",
        "http-tokens",
        "iam-instance-profile",
        "image-id",
        "instance-type",
        "is-default-version",
        "kernel-id",
        "network-card-index",
        "ram-disk-id",
    ],
    absent: &["host-resource-group-arn", "license-configuration-arn"],
    ..CallSpec::USUAL
};

/// EC2's message for invalid parameters of DescribeLaunchTemplateVersions.
const VERSIONS_TAKE: &str = "To describe the launch template data for all your launch templates, for ‘--versions’ \
    specify ‘$Latest’, ‘$Default’, or both, and omit ‘--launch-template-id’, ‘--launch-template-name’, and version \
    numbers. To describe the launch template data for a specific launch template, specify ‘--launch-template-id’ or \
    ‘--launch-template-name’, and for ‘--versions’ specify one or more of the following values: ‘$Latest’, \
    ‘$Default’, or one or more version numbers.";

/// DescribeLaunchTemplates.
pub(crate) fn describe(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let mut describe = Describe::new(params, &state.tags, &TEMPLATES);
    for name in params.list("LaunchTemplateName") {
        let template = state
            .templates
            .values()
            .find(|template| template.name == name)
            .ok_or_else(|| {
                ApiError::new(
                    "InvalidLaunchTemplateName.NotFoundException",
                    "At least one of the launch templates specified in the request does not exist.",
                )
            })?;
        describe.wanted.push(template.id.as_str());
    }
    let missing = |ids: &[&str]| unknown_id(&ids.join(", "));
    let chosen = describe.choose(&state.templates, missing, |template, name| match name {
        "launch-template-name" => one(&template.name),
        "create-time" => one(iso(template.created)),
        _ => None,
    })?;
    let mut xml = Xml::new();
    chosen.write(&mut xml, "launchTemplates", |x, template| {
        write(x, state, template)
    });
    Ok(xml)
}

/// DescribeLaunchTemplateVersions; without a template, `$Latest` or `$Default` of all of them.
pub(crate) fn describe_versions(state: &State, params: &Params) -> Result<Xml, ApiError> {
    let wanted = params.list("LaunchTemplateVersion");
    let mut found: Vec<(&Template, u64, &Version)> = Vec::new();
    if params.has("LaunchTemplateId") || params.has("LaunchTemplateName") {
        let template = state.template_named(params)?;
        if wanted.is_empty() {
            let least = params.integer("MinVersion")?.unwrap_or(0);
            let most = params.integer("MaxVersion")?.unwrap_or(i64::MAX);
            let within = |number: u64| {
                i64::try_from(number).is_ok_and(|number| (least..=most).contains(&number))
            };
            found.extend(
                template
                    .versions
                    .iter()
                    .rev()
                    .filter(|(number, _)| within(**number))
                    .map(|(number, version)| (template, *number, version)),
            );
        }
        for version in wanted {
            let (number, version) = template.resolve(version)?;
            found.push((template, number, version));
        }
    } else {
        if wanted.is_empty() {
            return Err(ApiError::new("MissingParameter", VERSIONS_TAKE));
        }
        if wanted.iter().any(|version| !version.starts_with('$')) {
            return Err(ApiError::new("InvalidParameterValue", VERSIONS_TAKE));
        }
        for template in state.templates.values() {
            for version in &wanted {
                let (number, version) = template.resolve(version)?;
                found.push((template, number, version));
            }
        }
    }
    let filters = Filters::read(params, &VERSIONS)?;
    let mut chosen = Vec::new();
    for (template, number, version) in found {
        if filters.pass(None, |name| version_field(template, number, version, name))? {
            chosen.push((template, number, version));
        }
    }
    let keyed = chosen
        .into_iter()
        .zip(0_u32..)
        .map(|(version, place)| (format!("{place:010}"), version));
    let mut xml = Xml::new();
    Page::read(params, &VERSIONS)?.cut(keyed).write(
        &mut xml,
        "launchTemplateVersionSet",
        |x, (template, number, version)| {
            write_version(x, template, number, version);
        },
    );
    Ok(xml)
}

fn version_field(
    template: &Template,
    number: u64,
    version: &Version,
    name: &str,
) -> Option<Vec<String>> {
    let text = |field: &str| maybe(version.data.text(field));
    match name {
        "create-time" => one(iso(version.created)),
        "is-default-version" => one(number == template.default),
        "image-id" => text("ImageId"),
        "instance-type" => text("InstanceType"),
        "kernel-id" => text("KernelId"),
        "ram-disk-id" => text("RamDiskId"),
        "ebs-optimized" => text("EbsOptimized"),
        "http-endpoint" => text("MetadataOptions.HttpEndpoint"),
        "http-protocol-ipv4" => text("MetadataOptions.HttpProtocolIpv4"),
        "http-tokens" => text("MetadataOptions.HttpTokens"),
        "iam-instance-profile" => maybe(
            version
                .data
                .text("IamInstanceProfile.Arn")
                .or_else(|| version.data.text("IamInstanceProfile.Name")),
        ),
        "network-card-index" => text("NetworkInterface.1.NetworkCardIndex"),
        _ => None,
    }
}

fn write(x: &mut Xml, state: &State, template: &Template) {
    x.text("launchTemplateId", &template.id)
        .text("launchTemplateName", &template.name)
        .text("createTime", iso(template.created))
        .text(
            "createdBy",
            format_args!("arn:aws:iam::{ACCOUNT}:user/rehearsal"),
        )
        .text("defaultVersionNumber", template.default)
        .text(
            "latestVersionNumber",
            template
                .versions
                .keys()
                .next_back()
                .copied()
                .unwrap_or(template.last),
        );
    tags::write(x, state.tags.get(template.id.as_str()));
}

fn write_version(x: &mut Xml, template: &Template, number: u64, version: &Version) {
    x.text("launchTemplateId", &template.id)
        .text("launchTemplateName", &template.name)
        .text("versionNumber", number)
        .maybe("versionDescription", version.description.as_ref())
        .text("createTime", iso(version.created))
        .text(
            "createdBy",
            format_args!("arn:aws:iam::{ACCOUNT}:user/rehearsal"),
        )
        .text("defaultVersion", number == template.default)
        .node("launchTemplateData", |x| write_data(x, &version.data));
}

/// Writes flat request fields as the nested fields of the answer. The names differ by rule: the first letter is lower
/// case, and a list is called `…Set` with `item`s.
fn write_data(x: &mut Xml, data: &Data) {
    let mut root = Node::default();
    for (name, value) in &data.0 {
        let mut node = &mut root;
        for part in name.split('.') {
            node = node.inside.entry(order(part)).or_default();
        }
        node.value = Some(value);
    }
    root.write(x);
}

#[derive(Default)]
struct Node<'a> {
    value: Option<&'a String>,
    inside: BTreeMap<(u64, String), Node<'a>>,
}

/// Numbers sort as numbers, names as names.
fn order(part: &str) -> (u64, String) {
    match part.parse() {
        Ok(number) => (number, String::new()),
        Err(_) => (0, part.to_owned()),
    }
}

impl Node<'_> {
    fn write(&self, x: &mut Xml) {
        for ((_, part), node) in &self.inside {
            let mut characters = part.chars();
            let first = characters
                .next()
                .map(|character| character.to_ascii_lowercase());
            let name: String = first.into_iter().chain(characters).collect();
            if let Some(value) = node.value {
                x.text(&name, value);
            } else if node.inside.keys().all(|(number, _)| *number > 0) {
                let set = match name.as_str() {
                    // A network interface's groups are the only exception to the rule.
                    "securityGroupId"
                        if !self.inside.contains_key(&order("ImageId"))
                            && self.inside.contains_key(&order("DeviceIndex")) =>
                    {
                        "groupSet".to_owned()
                    }
                    _ => format!("{name}Set"),
                };
                x.list(&set, "item", node.inside.values(), |x, item| {
                    item.write_item(x)
                });
            } else {
                x.node(&name, |x| node.write(x));
            }
        }
    }

    fn write_item(&self, x: &mut Xml) {
        match self.value {
            Some(value) => {
                x.content(value);
            }
            None => self.write(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(form: &str) -> Data {
        Data(
            Params::parse(form.as_bytes())
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    #[test]
    fn a_newer_version_replaces_whole_fields_of_its_source() {
        let source = data(
            "ImageId=ami-1&InstanceType=t3.micro&BlockDeviceMapping.1.DeviceName=a&BlockDeviceMapping.2.DeviceName=b\
             &MetadataOptions.HttpTokens=required",
        );
        let newer = data("ImageId=ami-2&BlockDeviceMapping.1.DeviceName=c");
        assert_eq!(
            source.over(&newer),
            data(
                "ImageId=ami-2&InstanceType=t3.micro&BlockDeviceMapping.1.DeviceName=c\
                 &MetadataOptions.HttpTokens=required"
            )
        );
    }

    #[test]
    fn data_is_answered_in_the_shape_sdks_read() {
        let mut xml = Xml::new();
        write_data(
            &mut xml,
            &data(
                "ImageId=ami-1&SecurityGroupId.1=sg-1&TagSpecification.1.ResourceType=instance\
                 &TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.Value=v\
                 &BlockDeviceMapping.1.Ebs.VolumeSize=8&IamInstanceProfile.Name=p",
            ),
        );
        assert_eq!(
            xml.into_string(),
            "<blockDeviceMappingSet><item><ebs><volumeSize>8</volumeSize></ebs></item></blockDeviceMappingSet>\
             <iamInstanceProfile><name>p</name></iamInstanceProfile><imageId>ami-1</imageId>\
             <securityGroupIdSet><item>sg-1</item></securityGroupIdSet><tagSpecificationSet><item>\
             <resourceType>instance</resourceType><tagSet><item><key>k</key><value>v</value></item></tagSet></item>\
             </tagSpecificationSet>"
        );
    }

    #[test]
    fn versions_that_cannot_be_deleted_are_listed_with_reasons() {
        let mut state = State::default();
        let ctx = crate::request::RequestContext {
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let form = |form: &str| Params::parse(form.as_bytes());
        create(
            &mut state,
            &ctx,
            &form("LaunchTemplateName=shop&LaunchTemplateData.InstanceType=t3.micro"),
        )
        .unwrap();
        let asked =
            "LaunchTemplateName=shop&LaunchTemplateVersion.1=$Default&LaunchTemplateVersion.2=7";
        let message = delete_versions(&mut state, &form(asked)).unwrap();
        let message = message.into_string();
        let parts: Vec<&str> = message.split("<item>").skip(1).collect();
        assert_eq!(parts.len(), 2, "{message}");
        for (part, number, code) in [
            (parts[0], 1, "unexpectedError"),
            (parts[1], 7, "launchTemplateVersionDoesNotExist"),
        ] {
            assert!(
                part.contains(&format!("<versionNumber>{number}</versionNumber>"))
                    && part.contains(&format!("<code>{code}</code>")),
                "{part}"
            );
        }
        assert!(state.template_by_name("shop").unwrap().resolve("1").is_ok());
    }
}
