//! The generated tables of the documents, by name.

use std::fmt::Write;
use wire::limits;
use wire::{CloseReason, ErrorCode, Kind, Plane, Sender};

/// The table called `name`, ending in a line break.
pub(crate) fn table(name: &str, schema: &str) -> Result<String, String> {
    match name {
        "kinds" => Ok(kinds()),
        "structs" => structs(schema),
        "errors" => Ok(errors()),
        "closes" => Ok(closes()),
        "limits" => Ok(limits_table()),
        _ => Err(format!("there is no generated table `{name}`")),
    }
}

fn kinds() -> String {
    let mut out = String::from(
        "| kind | name | sent by | plane | body bytes | |\n|---|---|---|---|---|---|\n",
    );
    for kind in Kind::ALL {
        let bytes = match kind.body_bytes_max() {
            0 => "0".to_owned(),
            most => format!("≤ {most}"),
        };
        let sender = match kind.sender() {
            Sender::Client => "client",
            Sender::Server => "server",
        };
        let plane = match kind.plane() {
            Plane::Control => "control",
            Plane::Durable => "durable",
            Plane::Query => "query",
        };
        row(
            &mut out,
            &[
                &format!("`{:#06x}`", *kind as u16),
                &format!("{kind:?}"),
                sender,
                plane,
                &bytes,
                kind.about(),
            ],
        );
    }
    out
}

fn errors() -> String {
    let mut out = String::from("| code | name | what it means, what to do |\n|---|---|---|\n");
    for code in ErrorCode::ALL {
        row(&mut out, &[&(*code as u16).to_string(), &format!("`{}`", code.name()), code.about()]);
    }
    out
}

fn closes() -> String {
    let mut out = String::from("| reason | name | what happened |\n|---|---|---|\n");
    for reason in CloseReason::ALL {
        let number = (*reason as u16).to_string();
        row(&mut out, &[&number, &format!("`{}`", reason.name()), reason.about()]);
    }
    out
}

fn limits_table() -> String {
    let rows = [
        ("bytes of a frame's body", limits::FRAME_BODY_BYTES_MAX),
        ("bytes of a message's content", limits::CONTENT_BYTES_MAX),
        ("bytes of a user or device id", limits::NAME_BYTES_MAX),
        ("bytes of a group's name", limits::GROUP_NAME_BYTES_MAX),
        ("bytes of a token", limits::TOKEN_BYTES_MAX),
        ("bytes of a resume token", limits::RESUME_TOKEN_BYTES_MAX),
        ("bytes of an error's text", limits::ERROR_TEXT_BYTES_MAX),
        ("members named in a frame", limits::MEMBERS_PER_FRAME_MAX),
        ("cursors in a Sync", limits::CURSORS_PER_FRAME_MAX),
        ("conversations in a slice of the list", usize::from(limits::CONVERSATIONS_PER_FRAME_MAX)),
        ("messages in a page", usize::from(limits::PAGE_MESSAGES_MAX)),
        ("entries where the client names no limit", usize::from(limits::PAGE_MESSAGES_DEFAULT)),
        ("depth of a table", limits::TABLE_DEPTH_MAX),
        ("tables in a body", limits::TABLES_PER_FRAME_MAX),
    ];
    let mut out = String::from("| at most | |\n|---|---|\n");
    for (what, most) in rows {
        row(&mut out, &[&most.to_string(), what]);
    }
    out
}

fn row(out: &mut String, cells: &[&str]) {
    writeln!(out, "| {} |", cells.join(" | ")).expect("a string takes all");
}

/// The byte layout of every struct of the schema, in its order.
fn structs(schema: &str) -> Result<String, String> {
    let mut out = String::new();
    for declaration in schema.split("\nstruct ").skip(1) {
        let (name, rest) = declaration.split_once('{').ok_or("a struct without a body")?;
        let (fields, _) = rest.split_once('}').ok_or("a struct without an end")?;
        let name = name.trim();
        if name == "Id128" {
            continue;
        }
        let (rows, bytes) = layout(fields).map_err(|why| format!("struct {name}: {why}"))?;
        write!(out, "\n**{name}**, {bytes} bytes\n\n| offset | bytes | field |\n|---|---|---|\n")
            .expect("a string takes all");
        out.push_str(&rows);
    }
    out.push('\n');
    Ok(out)
}

/// Rows for `fields`, and the bytes of them all. Padding is refused: the spare fields show it.
fn layout(fields: &str) -> Result<(String, usize), String> {
    let (mut out, mut offset, mut alignment_max) = (String::new(), 0_usize, 1);
    for field in fields.split(';').map(str::trim).filter(|field| !field.is_empty()) {
        let (name, kind) = field.split_once(':').ok_or_else(|| format!("`{field}` has no type"))?;
        let (bytes, alignment) = match kind.trim() {
            "Id128" => (16, 8),
            "ulong" => (8, 8),
            "uint" => (4, 4),
            "ushort" => (2, 2),
            "ubyte" => (1, 1),
            other => return Err(format!("type {other} has no known size")),
        };
        if !offset.is_multiple_of(alignment) {
            return Err(format!("padding before `{}`: put a spare field there", name.trim()));
        }
        row(&mut out, &[&offset.to_string(), &bytes.to_string(), &format!("`{}`", name.trim())]);
        offset += bytes;
        alignment_max = alignment_max.max(alignment);
    }
    if !offset.is_multiple_of(alignment_max) {
        return Err("padding at its end: put a spare field there".to_owned());
    }
    Ok((out, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_is_laid_out_field_after_field() {
        let (rows, bytes) = layout("a: Id128; b: uint; c: ushort; d: ubyte; e: ubyte;").unwrap();
        assert_eq!(bytes, 24);
        assert!(rows.ends_with("| 22 | 1 | `d` |\n| 23 | 1 | `e` |\n"), "{rows}");
    }

    #[test]
    fn padding_and_unknown_types_are_refused() {
        assert!(layout("a: ubyte; b: uint;").is_err());
        assert!(layout("a: ulong; b: uint;").is_err());
        assert!(layout("a: double;").is_err());
    }

    #[test]
    fn every_kind_and_code_has_its_row() {
        assert_eq!(kinds().lines().count(), 2 + Kind::ALL.len());
        assert_eq!(errors().lines().count(), 2 + ErrorCode::ALL.len());
        assert_eq!(closes().lines().count(), 2 + CloseReason::ALL.len());
        assert!(table("nonsense", "").is_err());
    }

    #[test]
    fn the_layouts_agree_with_the_generated_structs() {
        let schema = include_str!("../../wire/schema/ringmain.fbs");
        let text = structs(schema).unwrap();
        for (name, bytes) in [
            ("SendHead", size_of::<wire::generated::SendHead>()),
            ("SentHead", size_of::<wire::generated::SentHead>()),
            ("DeliverHead", size_of::<wire::generated::DeliverHead>()),
            ("ReceiptHead", size_of::<wire::generated::ReceiptHead>()),
            ("PageHead", size_of::<wire::generated::PageHead>()),
        ] {
            assert!(text.contains(&format!("**{name}**, {bytes} bytes")), "{name}");
        }
    }
}
