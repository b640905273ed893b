//! What can be typed.

use wire::table::MemberChange;

pub(super) const HELP: &str = "\
Lines are sent as they are; a line that begins with / is a command, // sends a /:
  /to USER, /to #GROUP         talk to a user, or in a group by its name or id
  /list                        your conversations, with what is unread
  /history [N]                 the last N messages here (20)
  /who                         who is here
  /group new NAME a,b,c        make a group with a, b and c, and talk in it
  /group add|remove a,b        change its members (admins)
  /group promote|demote a,b    change its admins (admins)
  /group leave                 leave it
  /rename NAME                 give the group another name (admins)
  /help, /quit";

/// A typed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input<'a> {
    Nothing,
    Say(&'a str),
    ToUser(&'a str),
    ToGroup(&'a str),
    List,
    History(u16),
    Who,
    NewGroup {
        name: &'a str,
        members: Vec<&'a str>,
    },
    Change(MemberChange, Vec<&'a str>),
    Rename(&'a str),
    Help,
    Quit,
    /// What is wrong with it.
    Wrong(&'static str),
}

const HISTORY_DEFAULT: u16 = 20;

pub(super) fn parse(line: &str) -> Input<'_> {
    let line = line.trim_end();
    if line.is_empty() {
        return Input::Nothing;
    }
    let Some(command) = line.strip_prefix('/') else { return Input::Say(line) };
    if command.starts_with('/') {
        return Input::Say(command);
    }
    let (word, rest) = split_word(command);
    match word {
        "to" => match rest.strip_prefix('#') {
            Some("") => Input::Wrong("/to #GROUP: which group?"),
            Some(group) => Input::ToGroup(group),
            None if rest.is_empty() || rest.contains(' ') => Input::Wrong("/to USER: which user?"),
            None => Input::ToUser(rest),
        },
        "list" => Input::List,
        "history" if rest.is_empty() => Input::History(HISTORY_DEFAULT),
        "history" => match rest.parse() {
            Ok(count @ 1..=200) => Input::History(count),
            Ok(_) | Err(_) => Input::Wrong("/history N: from 1 to 200"),
        },
        "who" => Input::Who,
        "group" => group(rest),
        "rename" if rest.is_empty() => Input::Wrong("/rename NAME: which name?"),
        "rename" => Input::Rename(rest),
        "help" => Input::Help,
        "quit" => Input::Quit,
        _ => Input::Wrong("there is no such command: /help lists them, // sends a /"),
    }
}

fn group(rest: &str) -> Input<'_> {
    let (word, rest) = split_word(rest);
    let names = || rest.split([',', ' ']).filter(|name| !name.is_empty()).collect::<Vec<_>>();
    let change = match word {
        "new" => {
            // The members are the last word, so that a name may have spaces.
            let Some((name, members)) = rest.rsplit_once(' ') else {
                return Input::Wrong("/group new NAME a,b,c: a name and the members");
            };
            let members = members.split(',').filter(|name| !name.is_empty()).collect();
            return Input::NewGroup { name: name.trim(), members };
        }
        "leave" => return Input::Change(MemberChange::Leave, Vec::new()),
        "add" => MemberChange::Add,
        "remove" => MemberChange::Remove,
        "promote" => MemberChange::Promote,
        "demote" => MemberChange::Demote,
        _ => return Input::Wrong("/group new, add, remove, promote, demote or leave"),
    };
    match names() {
        names if names.is_empty() => Input::Wrong("whom? /group add a,b"),
        names => Input::Change(change, names),
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (word, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_as_it_is_unless_it_begins_with_a_slash() {
        assert_eq!(parse("hi there \n"), Input::Say("hi there"));
        assert_eq!(parse(" /to bob"), Input::Say(" /to bob"));
        assert_eq!(parse("//etc/hosts"), Input::Say("/etc/hosts"));
        assert_eq!(parse("  "), Input::Nothing);
    }

    #[test]
    fn commands_are_told_apart() {
        assert_eq!(parse("/to bob"), Input::ToUser("bob"));
        assert_eq!(parse("/to #the team"), Input::ToGroup("the team"));
        assert_eq!(parse("/history"), Input::History(20));
        assert_eq!(parse("/history 7"), Input::History(7));
        assert_eq!(parse("/rename the crew"), Input::Rename("the crew"));
        let team = Input::NewGroup { name: "the team", members: vec!["bob", "carol"] };
        assert_eq!(parse("/group new the team bob,carol"), team);
        let bob = Input::Change(MemberChange::Remove, vec!["bob", "carol"]);
        assert_eq!(parse("/group remove bob, carol"), bob);
        assert_eq!(parse("/group leave"), Input::Change(MemberChange::Leave, vec![]));
    }

    #[test]
    fn what_is_wrong_is_never_sent() {
        for line in ["/to", "/to a b", "/history 0", "/history x", "/group", "/group add", "/x"] {
            assert!(matches!(parse(line), Input::Wrong(_)), "{line}");
        }
    }
}
