//! Which launch-template versions of rolls are deleted.

use super::*;

/// Adds an image and rolls it: `ami-{number}` for each.
async fn rolled(fixture: &Fixture, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let image = format!("ami-{number}");
        {
            let mut state = fixture.aws.state();
            state.add_verified_image(&image);
            state.point("candidate", &image);
        }
        let ended = fixture.roll().await;
        assert_eq!(ended.code, 0, "{}", ended.text);
    }
}

fn versions(fixture: &Fixture) -> Vec<u64> {
    let state = fixture.aws.state();
    let versions = state.template.versions.iter();
    versions.map(|version| version.number).collect()
}

fn text(fixture: &Fixture) -> String {
    fixture.output.messages().join("\n")
}

#[tokio::test]
async fn the_newest_versions_and_those_of_others_stay() {
    let fixture = Fixture::new("keep_template_versions = 3");
    // 6 and 7 are not ours; ours are 8 to 14.
    rolled(&fixture, 2..=8).await;
    assert_eq!(versions(&fixture), [6, 7, 12, 13, 14]);
    assert!(text(&fixture).contains("delete unused versions"));
    // The version before still exists.
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    let state = fixture.aws.state();
    assert_eq!(state.saved(), SavedVersion::Number(13));
    assert_eq!(state.template.latest, 14, "no version was made for it");
}

#[tokio::test]
async fn by_default_five_stay_and_with_zero_all() {
    let fixture = Fixture::new("");
    rolled(&fixture, 2..=8).await;
    assert_eq!(versions(&fixture), [6, 7, 10, 11, 12, 13, 14]);
    let fixture = Fixture::new("keep_template_versions = 0");
    rolled(&fixture, 2..=8).await;
    assert_eq!(versions(&fixture), (6..=14).collect::<Vec<_>>());
    assert!(!fixture.aws.state().calls.made.contains(&"groups_from"));
}

#[tokio::test]
async fn versions_in_use_elsewhere_stay() {
    let fixture = Fixture::new("keep_template_versions = 1");
    fixture.aws.state().launch_outside_the_group(9);
    fixture.aws.state().template.default = 8;
    rolled(&fixture, 2..=6).await;
    // 8 is the default, 9 runs elsewhere, 11 is the version before.
    assert_eq!(versions(&fixture), [6, 7, 8, 9, 11, 12]);

    let fixture = Fixture::new("keep_template_versions = 1");
    let other = "other".parse().unwrap();
    fixture.aws.state().other_groups = vec![other];
    rolled(&fixture, 2..=4).await;
    assert_eq!(versions(&fixture), [6, 7, 8, 9, 10]);
    assert!(text(&fixture).contains("group other launches from the same template"));
}

#[tokio::test]
async fn what_was_not_recorded_as_made_here_stays() {
    let fixture = Fixture::new("keep_template_versions = 1");
    rolled(&fixture, 2..=3).await;
    // Another machine rolled meanwhile, with the same image name; its versions have the same descriptions.
    for entry in std::fs::read_dir(fixture.runs.path()).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    rolled(&fixture, 4..=6).await;
    assert_eq!(versions(&fixture), [6, 7, 8, 9, 11, 12]);
}

#[tokio::test]
async fn what_cannot_be_deleted_changes_no_outcome_and_is_tried_again() {
    let fixture = Fixture::new("keep_template_versions = 1");
    rolled(&fixture, 2..=3).await;
    fixture
        .aws
        .fault("delete_version", Fault::Refused(denied("delete")));
    rolled(&fixture, 4..=4).await;
    assert!(text(&fixture).contains("unused template versions are not deleted"));
    assert_eq!(versions(&fixture), [6, 7, 8, 9, 10]);
    rolled(&fixture, 5..=5).await;
    assert_eq!(versions(&fixture), [6, 7, 10, 11]);
}

#[tokio::test]
async fn a_rollback_deletes_no_versions() {
    let mut fixture = Fixture::new("keep_template_versions = 0");
    rolled(&fixture, 2..=5).await;
    fixture.settings.keep_versions = Some(1);
    let ended = fixture.rollback().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert_eq!(versions(&fixture), (6..=11).collect::<Vec<_>>());
}
