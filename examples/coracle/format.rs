//! Lists as tables, JSON, or what a template picks.

use comfy_table::{ColumnConstraint, Table, Width};
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::template::Template;

/// What a list can show: the fields for templates, each with the header of its column.
pub struct View {
    pub fields: &'static [(&'static str, &'static str)],
    pub default: &'static str,
}

/// The values of one line, in the order of the view's fields.
pub type Row = Vec<String>;

impl View {
    /// Prints the rows in the form that `--format` names, or as the table of this view.
    pub fn print(&self, format: Option<&str>, rows: Vec<Row>, out: &mut Output) -> Result<()> {
        let format = format.filter(|format| !format.is_empty()).unwrap_or("table");
        let (table, template) = match format.split_once(' ') {
            _ if format == "table" => (true, self.default),
            _ if format == "json" => (false, "{{json .}}"),
            Some(("table", template)) => (true, template.trim_start()),
            _ => (false, format),
        };
        let template = Template::parse(template).map_err(Failure::new)?;
        let render = |row: Row| {
            let names = self.fields.iter().map(|(name, _)| (*name).to_owned());
            let fields: Map<_, _> = names.zip(row.into_iter().map(Value::from)).collect();
            let line = template.render(&fields.into());
            line.map_err(|why| Failure::new(format!("template: {why}")))
        };
        let headers = self.fields.iter().map(|(_, header)| (*header).to_owned()).collect();
        let header = render(headers)?;
        let lines = rows.into_iter().map(render).collect::<Result<Vec<_>>>()?;
        if !table {
            return lines.iter().try_for_each(|line| out.line(line));
        }
        let lines = std::iter::once(header).chain(lines);
        out.line(&tabulate(lines))
    }
}

/// Columns three blanks apart and at least ten wide, as docker's.
pub fn tabulate(lines: impl Iterator<Item = String>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for line in lines {
        table.add_row(line.split('\t'));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(10)));
    }
    table.trim_fmt()
}
