//! Images as a tree: below each those that are built upon it.

use coracle::image::{Reference, Tree};

use crate::failure::Result;
use crate::human;
use crate::images::id;
use crate::output::Output;

pub fn print(trees: &[Tree], whole_ids: bool, out: &mut Output) -> Result<()> {
    branches(trees, "", 0, whole_ids, out)
}

fn branches(trees: &[Tree], indent: &str, below: u64, whole: bool, out: &mut Output) -> Result<()> {
    for (number, tree) in trees.iter().enumerate() {
        let (corner, line) =
            if number + 1 == trees.len() { ("└─", "  ") } else { ("├─", "│ ") };
        let image = &tree.image;
        let layers: u64 = image.manifest().layers().iter().map(|layer| layer.size).sum();
        let names: Vec<_> = image.references().iter().map(Reference::familiar).collect();
        let names = if names.is_empty() { "<none>".to_owned() } else { names.join(", ") };
        out.line(&format!(
            "{indent}{corner}{} Size: {} (virtual {}) Tags: {names}",
            id(image, whole),
            human::size(layers.saturating_sub(below), 3),
            human::size(image.size(), 3),
        ))?;
        branches(&tree.children, &format!("{indent}{line}"), layers, whole, out)?;
    }
    Ok(())
}
