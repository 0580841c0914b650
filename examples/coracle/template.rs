//! The part of Go's templates that people use to pick what a command prints.

use serde_json::Value;

/// For the help of every command that takes one.
pub const HELP: &str = "\
Templates:
  'table'            a table with headers (what is printed without --format)
  'table TEMPLATE'   a table of what the template picks; columns end with \\t
  'json'             one JSON object a line
  TEMPLATE           text with {{...}} in it, once for each line; \\t and \\n are tab and line end

  {{.Field}}  {{.Field.Inner}}  {{json .}}  {{json .Field}}  {{upper .Field}}  {{lower .Field}}
  {{len .Field}}  {{index .Field 0}}  {{join .Field \", \"}}  {{println .Field}}  {{.Field | json}}
  Of Go's language that is all: no conditions, loops or variables.";

/// A template that has been read.
pub struct Template(Vec<Part>);

enum Part {
    Text(String),
    /// Each takes what the one before gives as its last argument.
    Pipeline(Vec<Call>),
}

struct Call {
    function: Option<Function>,
    arguments: Vec<Argument>,
}

enum Argument {
    Field(Vec<String>),
    Literal(Value),
}

#[derive(Clone, Copy)]
enum Function {
    Json,
    Upper,
    Lower,
    Len,
    Index,
    Join,
    Println,
}

type Result<T> = std::result::Result<T, String>;

impl Template {
    pub fn parse(text: &str) -> Result<Self> {
        Self::try_parse(text).map_err(|why| format!("template parsing error: {why}"))
    }

    fn try_parse(text: &str) -> Result<Self> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or("unclosed action")?;
            parts.push(Part::Text(before.to_owned()));
            let calls = words(action)?;
            let calls = calls.split(|word| word == "|").map(Call::parse).collect::<Result<_>>()?;
            parts.push(Part::Pipeline(calls));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    pub fn render(&self, value: &Value) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Pipeline(calls) => {
                    let mut piped = None;
                    for call in calls {
                        piped = Some(call.run(value, piped)?);
                    }
                    text.push_str(&shown(&piped.unwrap_or_default()));
                }
            }
        }
        Ok(text)
    }
}

/// Words, quoted text (with its opening quote) and bars.
fn words(action: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '|' => 1,
            '"' | '`' => {
                let end = rest[1..].find(first).ok_or("unterminated quoted string")?;
                end + 2
            }
            _ => rest.find(|c: char| c.is_whitespace() || c == '|').unwrap_or(rest.len()),
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

impl Call {
    fn parse(words: &[String]) -> Result<Self> {
        let (first, rest) = words.split_first().ok_or("missing value for command")?;
        let function = match first.as_str() {
            "json" => Some(Function::Json),
            "upper" => Some(Function::Upper),
            "lower" => Some(Function::Lower),
            "len" => Some(Function::Len),
            "index" => Some(Function::Index),
            "join" => Some(Function::Join),
            "println" => Some(Function::Println),
            _ => None,
        };
        let arguments = if function.is_some() { rest } else { words };
        if function.is_none() && arguments.len() > 1 {
            return Err(format!("{first} is no function"));
        }
        let arguments = arguments.iter().map(|word| Argument::parse(word));
        Ok(Self { function, arguments: arguments.collect::<Result<_>>()? })
    }

    fn run(&self, value: &Value, piped: Option<Value>) -> Result<Value> {
        let arguments = self.arguments.iter().map(|argument| argument.value(value));
        let mut arguments = arguments.collect::<Result<Vec<_>>>()?;
        arguments.extend(piped);
        let Some(function) = self.function else {
            let [value] = &arguments[..] else {
                return Err("can't give arguments to a value".into());
            };
            return Ok(value.clone());
        };
        function.call(&arguments)
    }
}

impl Argument {
    fn parse(word: &str) -> Result<Self> {
        let unknown = || format!("function {word:?} not defined");
        if let Some(path) = word.strip_prefix('.') {
            let path = path.split('.').filter(|_| !path.is_empty()).map(str::to_owned);
            let path: Vec<_> = path.collect();
            let bad = |name: &String| {
                name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
            };
            return match path.iter().any(bad) {
                true => Err(format!("bad field {word:?}")),
                false => Ok(Self::Field(path)),
            };
        }
        if let Some(quote) = word.chars().next().filter(|c| ['"', '`'].contains(c)) {
            return Ok(Self::Literal(word.trim_matches(quote).into()));
        }
        word.parse::<i64>().map(|number| Self::Literal(number.into())).map_err(|_| unknown())
    }

    fn value(&self, value: &Value) -> Result<Value> {
        let path = match self {
            Self::Literal(value) => return Ok(value.clone()),
            Self::Field(path) => path,
        };
        let mut found = value;
        for name in path {
            found = match found {
                Value::Object(fields) => fields.get(name).ok_or_else(|| {
                    let names: Vec<_> = fields.keys().map(String::as_str).collect();
                    format!("there is no field {name:?}, but {}", names.join(", "))
                })?,
                Value::Null => found,
                _ => return Err(format!("can't evaluate field {name}: it is in no object")),
            };
        }
        Ok(found.clone())
    }
}

impl Function {
    fn call(self, arguments: &[Value]) -> Result<Value> {
        let text = |change: fn(&str) -> String, value: &Value| Ok(change(&shown(value)).into());
        match (self, arguments) {
            (Self::Json, [value]) => Ok(value.to_string().into()),
            (Self::Upper, [value]) => text(str::to_uppercase, value),
            (Self::Lower, [value]) => text(str::to_lowercase, value),
            (Self::Len, [value]) => match value {
                Value::Array(values) => Ok(values.len().into()),
                Value::Object(fields) => Ok(fields.len().into()),
                Value::String(text) => Ok(text.len().into()),
                Value::Null => Ok(0.into()),
                _ => Err("len of what has no length".into()),
            },
            (Self::Index, [value, keys @ ..]) if !keys.is_empty() => {
                keys.iter().try_fold(value.clone(), |value, key| at(&value, key))
            }
            (Self::Join, [Value::Array(values), Value::String(between)]) => {
                Ok(values.iter().map(shown).collect::<Vec<_>>().join(between).into())
            }
            (Self::Join, [Value::Null, Value::String(_)]) => Ok("".into()),
            (Self::Println, values) => {
                let line = values.iter().map(shown).collect::<Vec<_>>().join(" ");
                Ok(format!("{line}\n").into())
            }
            _ => Err("a function has the wrong arguments".into()),
        }
    }
}

fn at(value: &Value, key: &Value) -> Result<Value> {
    let found = match (value, key) {
        (Value::Array(values), Value::Number(number)) => {
            let place = number.as_u64().and_then(|number| usize::try_from(number).ok());
            place.and_then(|place| values.get(place)).ok_or(format!("index out of range: {number}"))
        }
        (Value::Object(fields), Value::String(name)) => {
            return Ok(fields.get(name).cloned().unwrap_or_else(|| "".into()));
        }
        _ => Err(format!("there is no {key} in {}", shown(value))),
    };
    found.cloned()
}

/// As Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}:{}", shown(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
