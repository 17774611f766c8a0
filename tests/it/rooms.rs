//! The rooms of `src/` keep to the table in docs/ARCHITECTURE.md: a room calls only rooms below it,
//! and no two files of a room use each other.

mod graph;
mod lexer;

use graph::{Modules, circles, room};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Rooms whose files still use each other in circles.
const ROOMS_WITH_CIRCLES: [&str; 0] = [];
/// A room and one above it that it still uses.
const UPWARD: [(&str, &str); 0] = [];

/// The rooms of docs/ARCHITECTURE.md, from the top of the house to its ground.
fn table() -> Vec<String> {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    rooms_of(&fs::read_to_string(doc).unwrap())
}

/// The names in backticks in the first column of the table whose first heading is `room`.
fn rooms_of(doc: &str) -> Vec<String> {
    let rows = doc.lines().skip_while(|l| !l.starts_with("| room |")).skip(2);
    let cells = rows.take_while(|l| l.starts_with('|')).filter_map(|l| l.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(|n| n.trim_end_matches('/').trim_end_matches(".rs").to_owned()).collect()
}

fn modules() -> Modules {
    Modules::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn every_room_is_in_the_table() {
    let table = table();
    let listed: BTreeSet<String> = table.iter().cloned().collect();
    assert_eq!(listed.len(), table.len(), "a room is in the table twice: {table:?}");
    let rooms = modules().rooms();
    let missing: Vec<_> = rooms.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&rooms).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/ARCHITECTURE.md lacks {missing:?} and lists {stale:?}, which src/ does not have"
    );
}

#[test]
fn a_room_calls_only_rooms_below_it() {
    let table = table();
    let place = |name: &str| table.iter().position(|n| n == name);
    let modules = modules();
    let (mut found, mut pairs) = (Vec::new(), BTreeSet::new());
    for (from, used) in modules.uses() {
        for to in used {
            let (above, below) = (room(from), room(to));
            if above == below || place(above) < place(below) || from.is_empty() {
                continue;
            }
            pairs.insert((above, below));
            if !UPWARD.contains(&(above, below)) {
                found.push(format!("{from} uses {to}"));
            }
        }
    }
    let stale: Vec<_> = UPWARD.iter().filter(|known| !pairs.contains(*known)).collect();
    assert!(found.is_empty(), "rooms use rooms above them:\n{}", found.join("\n"));
    assert!(stale.is_empty(), "no longer needed in UPWARD: {stale:?}");
}

#[test]
fn no_files_of_a_room_use_each_other() {
    let modules = modules();
    let mut uses = modules.uses();
    for (from, used) in &mut uses {
        used.retain(|to| room(to) == room(from));
    }
    let circles = circles(&uses);
    let unknown: Vec<_> =
        circles.iter().filter(|c| !ROOMS_WITH_CIRCLES.contains(&room(&c[0]))).collect();
    let with_circles: BTreeSet<&str> = circles.iter().map(|c| room(&c[0])).collect();
    let stale: Vec<_> = ROOMS_WITH_CIRCLES.iter().filter(|r| !with_circles.contains(**r)).collect();
    let mut edges = String::new();
    for circle in &unknown {
        for from in circle.iter() {
            let to: Vec<_> =
                uses[from.as_str()].iter().filter(|to| circle.iter().any(|c| c == *to)).collect();
            edges.push_str(&format!("\n  {from} uses {to:?}"));
        }
        edges.push('\n');
    }
    assert!(unknown.is_empty(), "files use each other:{edges}");
    assert!(stale.is_empty(), "no longer needed in ROOMS_WITH_CIRCLES: {stale:?}");
}

#[test]
fn the_table_is_read() {
    let doc = "text\n| room | owns | calls |\n|---|---|---|\n| `main.rs`, `cli/` | `x` | |\n\
               | `fs/` | y | – |\n\n| `other/` | | |\n";
    assert_eq!(rooms_of(doc), ["main", "cli", "fs"]);
}
