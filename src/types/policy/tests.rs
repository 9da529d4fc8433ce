use proptest::prelude::*;

use super::*;

const AGENCIES: &str = "id,name,divisions,kind,node
qidong-emergency,启东市应急管理局,320681,county-department,qidong
rudong-emergency,如东县应急管理局,320623,county-department,rudong;qidong
nantong-emergency,南通市应急管理局,320600,city-department,nantong
lusi-town,吕四港镇,320681100,town,qidong
two-counties,两地,320681;320623,zone,qidong
";

const POLICY: &str = r#"
[groups]
duty = ["agency/nantong-emergency", "admin/night"]

[[grant]]
who = ["agency/*"]
may = ["submit", "read"]
registers = ["risks", "measures"]
divisions = ["own"]

[[grant]]
who = ["group/duty"]
may = ["read"]
registers = ["incidents"]
divisions = ["320681"]

[[grant]]
who = ["agency/two-counties"]
may = ["submit"]
registers = ["incidents"]
divisions = ["320681100", "320684"]

[[grant]]
who = ["auditor/*"]
may = ["prove", "audit"]

[[grant]]
who = ["self"]
may = ["administer"]

[[grant]]
who = ["node/*"]
may = ["replicate"]
brings = ["own"]

[[grant]]
who = ["node/nantong"]
may = ["replicate"]
brings = ["qidong"]
"#;

fn domain() -> crate::types::TrustDomain {
    "nantong.gov.cn".parse().unwrap()
}

fn ask(policy: &Policy, who: &str, action: &str, parts: [Option<&str>; 4]) -> Verdict {
    let question = Question::parse(&domain(), who, action, parts).unwrap();
    let agencies = AgencyTable::from_csv(AGENCIES).unwrap();
    policy.answer(&question, &agencies, &"qidong".parse().unwrap())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, a line a case")]
fn grants_allow_and_nothing_else_does() {
    let policy = Policy::from_toml(POLICY).unwrap();
    let read =
        |who, register, of| ask(&policy, who, "read", [Some(register), Some(of), None, None]);
    let submit = |who, register, division| {
        ask(
            &policy,
            who,
            "submit",
            [Some(register), None, division, None],
        )
    };
    let cases = [
        // One's own, and those of agencies that lie within one's divisions.
        (
            read("agency/qidong-emergency", "risks", "qidong-emergency"),
            true,
        ),
        (read("agency/qidong-emergency", "risks", "lusi-town"), true),
        (
            read("agency/qidong-emergency", "risks", "rudong-emergency"),
            false,
        ),
        (
            read("agency/qidong-emergency", "risks", "nantong-emergency"),
            false,
        ),
        (
            read("agency/qidong-emergency", "risks", "two-counties"),
            false,
        ),
        (
            read("agency/qidong-emergency", "risks", "unheard-of"),
            false,
        ),
        (read("agency/lusi-town", "risks", "qidong-emergency"), false),
        (
            read("agency/nantong-emergency", "risks", "two-counties"),
            true,
        ),
        // A register that is not granted.
        (
            read("agency/qidong-emergency", "incidents", "qidong-emergency"),
            false,
        ),
        // A group, within its division.
        (read("admin/night", "incidents", "lusi-town"), true),
        (read("admin/night", "incidents", "rudong-emergency"), false),
        (read("admin/night", "risks", "lusi-town"), false),
        (read("admin/day", "incidents", "lusi-town"), false),
        // An agency that the table does not have still reads what is its own.
        (read("agency/unheard-of", "risks", "unheard-of"), true),
        (read("agency/unheard-of", "risks", "lusi-town"), false),
        // Writing: at the node of the table, for what is both its own and granted.
        (
            submit("agency/qidong-emergency", "risks", Some("320681100200")),
            true,
        ),
        (
            submit("agency/qidong-emergency", "risks", Some("320682")),
            false,
        ),
        (submit("agency/qidong-emergency", "incidents", None), false),
        (submit("agency/rudong-emergency", "risks", None), false),
        (submit("agency/unheard-of", "risks", None), false),
        (
            submit("agency/two-counties", "incidents", Some("320681100")),
            true,
        ),
        (
            submit("agency/two-counties", "incidents", Some("320681101")),
            false,
        ),
        (
            submit("agency/two-counties", "incidents", Some("320684")),
            false,
        ),
        (submit("admin/night", "risks", None), false),
    ];
    for (at, (verdict, allowed)) in cases.iter().enumerate() {
        assert_eq!(verdict.allowed, *allowed, "case {at}: {}", verdict.why);
    }
}

#[test]
fn children_bring_what_is_theirs() {
    let policy = Policy::from_toml(POLICY).unwrap();
    let brings = |who, log| ask(&policy, who, "replicate", [None, None, None, Some(log)]).allowed;
    assert!(brings("node/qidong", "qidong") && !brings("node/qidong", "rudong"));
    assert!(brings("node/nantong", "qidong") && !brings("node/nantong", "rudong"));
    assert!(!brings("agency/qidong-emergency", "qidong"));
}

#[test]
fn the_node_itself_is_told_from_others() {
    let policy = Policy::from_toml(POLICY).unwrap();
    let administers = |who| ask(&policy, who, "administer", [None; 4]).allowed;
    assert!(administers("node/qidong"));
    assert!(!administers("node/nantong") && !administers("admin/night"));
}

#[test]
fn the_policy_that_is_built_in_parses_and_keeps_roles_apart() {
    let policy = Policy::default();
    assert_eq!(policy.digest().len(), 64);
    let may = |who, action| ask(&policy, who, action, [Some("risks"), None, None, None]).allowed;
    assert!(may("agency/qidong-emergency", "submit") && may("agency/qidong-emergency", "read"));
    for action in ["prove", "audit", "administer", "replicate"] {
        assert!(!may("agency/qidong-emergency", action), "{action}");
    }
    assert!(may("auditor/one", "prove") && may("auditor/one", "audit"));
    assert!(!may("auditor/one", "read") && !may("auditor/one", "administer"));
    assert!(!may("admin/one", "submit") && !may("admin/one", "replicate"));
    assert!(!may("node/rudong", "administer") && !may("node/rudong", "read"));
}

#[test]
fn mistakes_name_the_grant() {
    for (grant, expected) in [
        ("who = [\"agency/*\"]\nmay = []", "grant 1: may: name"),
        ("who = []\nmay = [\"audit\"]", "grant 1: who: name"),
        (
            "who = [\"agency/*\"]\nmay = [\"write\"]",
            "\"write\" is none of submit, read",
        ),
        (
            "who = [\"everyone\"]\nmay = [\"audit\"]",
            "who: \"everyone\"",
        ),
        (
            "who = [\"agency/Qi Dong\"]\nmay = [\"audit\"]",
            "who: \"agency/Qi Dong\"",
        ),
        (
            "who = [\"group/x\"]\nmay = [\"audit\"]",
            "there is no group \"x\"",
        ),
        (
            "who = [\"agency/*\"]\nmay = [\"read\"]",
            "registers: submit or read needs it",
        ),
        (
            "who = [\"agency/*\"]\nmay = [\"read\"]\nregisters = [\"*\"]\ndivisions = [\"3206\"]",
            "divisions: a division code",
        ),
        (
            "who = [\"agency/*\"]\nmay = [\"audit\"]\nbrings = [\"*\"]",
            "brings: it means nothing",
        ),
        (
            "who = [\"node/*\"]\nmay = [\"replicate\"]",
            "brings: replicate needs it",
        ),
        (
            "who = [\"agency/*\"]\nmay = [\"audit\"]\nwhom = 1",
            "unknown field `whom`",
        ),
    ] {
        let error = Policy::from_toml(&format!("[[grant]]\n{grant}\n")).unwrap_err();
        assert!(error.to_string().contains(expected), "{grant}: {error}");
    }
}

#[test]
fn cases_are_read_and_their_mistakes_named() {
    let good =
        "[[case]]\nas = \"agency/ab\"\nmay = \"read\"\nregister = \"risks\"\nexpect = \"deny\"\n";
    let cases = Case::from_toml(good, &domain()).unwrap();
    assert!(cases.len() == 1 && !cases[0].allowed);
    for (wrong, expected) in [
        (good.replace("deny", "no"), "case 1: expect"),
        (
            good.replace("register = \"risks\"\n", ""),
            "case 1: register",
        ),
        (good.replace("agency/ab", "ab"), "case 1: as"),
        (good.replace("\"read\"", "\"see\""), "case 1: may"),
    ] {
        let error = Case::from_toml(&wrong, &domain()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn division() -> impl Strategy<Value = DivisionCode> {
    prop::sample::select(vec![
        "320000",
        "320600",
        "320681",
        "320623",
        "320681100",
        "320681100200",
        "330000",
    ])
    .prop_map(|code| code.parse().unwrap())
}

proptest! {
    /// What may be written is within what the agency has and within what is granted; and one more
    /// grant never takes anything away.
    #[test]
    fn grants_narrow_and_add_up(
        own in prop::collection::vec(division(), 1..3),
        granted in prop::collection::vec(division(), 1..3),
        more in division(),
        asked in division(),
    ) {
        let register: RegisterId = "risks".parse().unwrap();
        let identity = format!("spiffe://{}/agency/ab", domain()).parse().unwrap();
        let agency = Agency {
            id: "ab".parse().unwrap(),
            name: "x".into(),
            divisions: own.clone(),
            kind: "x".into(),
            nodes: vec!["qidong".parse().unwrap()],
        };
        let here = "qidong".parse().unwrap();
        let subject = Subject { identity: &identity, agency: Some(&agency), here: &here };
        let grant = |codes: &[DivisionCode]| {
            let codes: Vec<_> = codes.iter().map(|c| format!("{:?}", c.as_str())).collect();
            format!(
                "[[grant]]\nwho = [\"agency/*\"]\nmay = [\"submit\"]\nregisters = [\"*\"]\n\
                 divisions = [{}]\n",
                codes.join(", ")
            )
        };
        let text = grant(&granted);
        let writes = Policy::from_toml(&text).unwrap().writes(&subject, &register);
        let may = |divisions: &[DivisionCode]| divisions.iter().any(|d| d.contains(&asked));
        prop_assert_eq!(may(&writes), may(&own) && may(&granted));
        let wider = Policy::from_toml(&(text + &grant(&[more]))).unwrap();
        prop_assert!(!may(&writes) || may(&wider.writes(&subject, &register)));
    }
}
