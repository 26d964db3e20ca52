//! PTX text to a syntax tree: what is declared, and the instructions of each kernel in order.
//!
//! The grammar is that of the PTX ISA as far as nvcc writes it. What an instruction means is not known here.

use std::collections::HashMap;

use crate::lexer::{Spanned, Token, tokens};

/// PTX that cannot be read or is not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable outside of registers.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) align: u64,
    /// 0 for `extern __shared__`, whose size the launch says.
    pub(crate) size: u64,
    /// Bytes it starts with, if any are written.
    pub(crate) init: Option<Vec<u8>>,
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    Integer(i128),
    F32(u32),
    F64(u64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `[base + offset]`, or `[map, {x, y}]` with the coordinates in `rest`.
    Address {
        base: Box<Operand>,
        offset: i64,
        rest: Vec<Operand>,
    },
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`
    Not(Box<Operand>),
    /// `(a, b)`
    List(Vec<Operand>),
}

/// A source position: index of the file, line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loc {
    pub(crate) file: u32,
    pub(crate) line: u32,
}

/// The position of an instruction: where it is written, and where the outermost function it was inlined into calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) inner: Loc,
    pub(crate) outer: Loc,
}

/// One instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// `Some((p, false))` for `@p`, `true` for `@!p`.
    pub(crate) guard: Option<(String, bool)>,
    /// The opcode and its qualifiers, split at the dots.
    pub(crate) opcode: Vec<String>,
    pub(crate) operands: Vec<Operand>,
    pub(crate) site: Site,
    pub(crate) text: String,
    pub(crate) ptx_line: u32,
}

/// A kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Name, offset and size of each parameter.
    pub(crate) params: Vec<(String, u64, u64)>,
    pub(crate) param_bytes: u64,
    pub(crate) max_threads: Option<u64>,
    pub(crate) cluster: Option<[u32; 3]>,
    /// Registers with their types (`pred`, `b32`, ...). Names of inner scopes are made unique by the parser.
    pub(crate) registers: HashMap<String, String>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) statements: Vec<Statement>,
    /// Index into `statements`.
    pub(crate) labels: HashMap<String, usize>,
    pub(crate) branch_targets: HashMap<String, Vec<String>>,
}

/// A module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: HashMap<u32, String>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) entries: Vec<Entry>,
}

pub(crate) fn parse(text: &str) -> Result<Tree, ParseError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, at: 0, tree: Tree::default() };
    parser.module()?;
    Ok(parser.tree)
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Spanned<'a>],
    at: usize,
    tree: Tree,
}

/// What is open while a kernel's body is read.
#[derive(Default)]
struct Body {
    entry: Entry,
    /// Of each open brace: a number, and the names it declares.
    scopes: Vec<(usize, HashMap<String, String>)>,
    num_scopes: usize,
    site: Site,
    /// From a position that was inlined to the one it was inlined at.
    inlined_at: HashMap<(u32, u32, u32), (u32, u32, u32)>,
}

impl Body {
    /// The unique name of a register, label or variable.
    fn resolve(&self, name: &str) -> String {
        self.scopes.iter().rev().find_map(|(_, names)| names.get(name)).cloned().unwrap_or_else(|| name.to_owned())
    }

    /// Declares a name in the innermost scope; only inner scopes need to make it unique.
    fn declare(&mut self, name: &str) -> String {
        let (number, names) = self.scopes.last_mut().expect("a body is inside of a brace");
        let unique = if *number == 0 { name.to_owned() } else { format!("{name}@{number}") };
        names.insert(name.to_owned(), unique.clone());
        unique
    }
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(0, |token| token.line)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.line(), message: message.into() })
    }

    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.at).map(|spanned| &spanned.token)
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        match self.tokens.get(self.at) {
            Some(spanned) => {
                self.at += 1;
                Ok(spanned.token.clone())
            }
            None => self.error("the text ends here in the middle of something"),
        }
    }

    fn eat(&mut self, mark: char) -> bool {
        let is_next = self.peek() == Some(&Token::Mark(mark));
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, mark: char) -> Result<(), ParseError> {
        if self.eat(mark) { Ok(()) } else { self.error(format!("expected `{mark}`, found {:?}", self.peek())) }
    }

    fn name(&mut self) -> Result<&'a str, ParseError> {
        match self.next()? {
            Token::Name(name) => Ok(name),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other:?}"))
            }
        }
    }

    fn integer(&mut self) -> Result<i128, ParseError> {
        let is_negative = self.eat('-');
        match self.next()? {
            Token::Integer(value) => Ok(if is_negative { -value } else { value }),
            other => {
                self.at -= 1;
                self.error(format!("expected an integer, found {other:?}"))
            }
        }
    }

    fn number<T: TryFrom<i128>>(&mut self) -> Result<T, ParseError> {
        let value = self.integer()?;
        T::try_from(value).or_else(|_| self.error(format!("{value} is out of range")))
    }

    /// Skips to after the next `mark`.
    fn skip_past(&mut self, mark: char) -> Result<(), ParseError> {
        while self.next()? != Token::Mark(mark) {}
        Ok(())
    }

    /// Skips what stands in braces; the opening one is next.
    fn skip_braces(&mut self) -> Result<(), ParseError> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn module(&mut self) -> Result<(), ParseError> {
        while self.peek().is_some() {
            match self.name()? {
                ".version" => {
                    // `9.0` is read as an integer, a dot and an integer.
                    self.next()?;
                    self.expect('.')?;
                    self.next()?;
                }
                ".target" => {
                    self.name()?;
                    while self.eat(',') {
                        self.name()?;
                    }
                }
                ".address_size" => {
                    if self.integer()? != 64 {
                        return self.error("only 64-bit addresses are executed");
                    }
                }
                ".file" => self.file()?,
                ".section" => {
                    self.name()?;
                    self.skip_braces()?;
                }
                ".visible" | ".extern" | ".weak" | ".common" => {}
                ".entry" => self.entry()?,
                ".func" => self.function()?,
                space @ (".global" | ".const" | ".shared") => {
                    let space = match space {
                        ".global" => Space::Global,
                        ".const" => Space::Const,
                        _ => Space::Shared,
                    };
                    let variables = self.variables(space)?;
                    self.tree.variables.extend(variables);
                }
                ".alias" | ".pragma" => self.skip_past(';')?,
                other => return self.error(format!("`{other}` is not known at module level")),
            }
        }
        Ok(())
    }

    fn file(&mut self) -> Result<(), ParseError> {
        let number = self.number()?;
        let Token::Text(name) = self.next()? else { return self.error("expected the name of a file") };
        self.tree.files.insert(number, name.to_owned());
        while self.eat(',') {
            self.integer()?;
        }
        Ok(())
    }

    /// A device function. Declarations are skipped; bodies are: kernels inline all that they call, and a call of anything
    /// else is refused where it is executed.
    fn function(&mut self) -> Result<(), ParseError> {
        loop {
            match self.peek() {
                Some(Token::Mark('{')) => return self.skip_braces(),
                Some(Token::Mark(';')) => {
                    self.at += 1;
                    return Ok(());
                }
                _ => {
                    self.next()?;
                }
            }
        }
    }

    /// `.align 4 .b8 name[32] = {...}, ...;` after the state space.
    fn variables(&mut self, space: Space) -> Result<Vec<Variable>, ParseError> {
        let mut align = None;
        let element = loop {
            match self.name()? {
                ".align" => align = Some(self.number()?),
                ".attribute" | ".managed" => return self.error("attributes of variables are not executed"),
                scalar => match size_of_type(scalar) {
                    Some(size) => break size,
                    None if matches!(scalar, ".v2" | ".v4") => return self.error("vector variables are not executed"),
                    None => return self.error(format!("`{scalar}` is not a type")),
                },
            }
        };
        let mut variables = Vec::new();
        loop {
            let name = self.name()?.to_owned();
            let mut count = 1;
            while self.eat('[') {
                count *= if self.peek() == Some(&Token::Mark(']')) { 0 } else { self.number::<u64>()? };
                self.expect(']')?;
            }
            let size = count * element;
            let init = if self.eat('=') { Some(self.initialiser(element, size)?) } else { None };
            variables.push(Variable { name, space, align: align.unwrap_or(element), size, init });
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(variables)
    }

    fn initialiser(&mut self, element: u64, size: u64) -> Result<Vec<u8>, ParseError> {
        let mut bytes = Vec::new();
        let mut value = |parser: &mut Self| -> Result<(), ParseError> {
            let bits = match parser.peek() {
                Some(&Token::F32(bits)) => {
                    parser.at += 1;
                    i128::from(bits)
                }
                Some(&Token::F64(bits)) => {
                    parser.at += 1;
                    i128::from(bits)
                }
                _ => parser.integer()?,
            };
            bytes.extend_from_slice(&bits.to_le_bytes()[..element as usize]);
            Ok(())
        };
        if self.eat('{') {
            while !self.eat('}') {
                value(self)?;
                self.eat(',');
            }
        } else {
            value(self)?;
        }
        if bytes.len() as u64 > size {
            return self.error("more values than the variable holds");
        }
        bytes.resize(size as usize, 0);
        Ok(bytes)
    }

    fn entry(&mut self) -> Result<(), ParseError> {
        let mut entry = Entry { name: self.name()?.to_owned(), ..Entry::default() };
        if self.eat('(') {
            while !self.eat(')') {
                self.parameter(&mut entry)?;
                self.eat(',');
            }
        }
        loop {
            match self.peek() {
                Some(Token::Mark('{')) => break,
                Some(&Token::Name(directive)) => {
                    self.at += 1;
                    let mut values = Vec::new();
                    while let Some(&Token::Integer(value)) = self.peek() {
                        self.at += 1;
                        values.push(value);
                        if !self.eat(',') {
                            break;
                        }
                    }
                    match directive {
                        ".maxntid" | ".reqntid" => {
                            entry.max_threads = Some(values.iter().product::<i128>() as u64);
                        }
                        ".reqnctapercluster" => {
                            let mut cluster = [1; 3];
                            cluster.iter_mut().zip(&values).for_each(|(size, &value)| *size = value as u32);
                            entry.cluster = Some(cluster);
                        }
                        ".minnctapersm" | ".maxnreg" | ".explicitcluster" | ".maxclusterrank"
                        | ".blocksareclusters" => {}
                        other => return self.error(format!("`{other}` is not known for kernels")),
                    }
                }
                other => return self.error(format!("expected the body of the kernel, found {other:?}")),
            }
        }
        let mut body = Body { entry, ..Body::default() };
        self.block(&mut body)?;
        self.tree.entries.push(body.entry);
        Ok(())
    }

    fn parameter(&mut self, entry: &mut Entry) -> Result<(), ParseError> {
        let mut align = None;
        let mut element = 0;
        let name = loop {
            match self.name()? {
                ".param" | ".ptr" | ".global" | ".const" | ".shared" => {}
                ".align" => align = Some(self.number::<u64>()?),
                name if name.starts_with('.') => match size_of_type(name) {
                    Some(size) => element = size,
                    None => return self.error(format!("`{name}` is not a type of a parameter")),
                },
                name => break name.to_owned(),
            }
        };
        let mut size = element;
        if self.eat('[') {
            size *= self.number::<u64>()?;
            self.expect(']')?;
        }
        let offset = entry.param_bytes.next_multiple_of(align.unwrap_or(element).max(1));
        entry.params.push((name, offset, size));
        entry.param_bytes = offset + size;
        Ok(())
    }

    /// What stands in braces inside of a kernel.
    fn block(&mut self, body: &mut Body) -> Result<(), ParseError> {
        self.expect('{')?;
        body.scopes.push((body.num_scopes, HashMap::new()));
        body.num_scopes += 1;
        // A label may be used before the line that declares it: labels of this scope are declared first.
        self.declare_labels(body);
        while !self.eat('}') {
            match self.peek() {
                Some(Token::Mark('{')) => self.block(body)?,
                Some(&Token::Name(name)) if name.starts_with('.') => self.directive(body)?,
                _ => self.statement(body)?,
            }
        }
        body.scopes.pop();
        Ok(())
    }

    fn declare_labels(&self, body: &mut Body) {
        let mut depth = 0;
        for pair in self.tokens[self.at..].windows(2) {
            match (&pair[0].token, &pair[1].token) {
                (Token::Mark('{'), _) => depth += 1,
                (Token::Mark('}'), _) if depth == 0 => return,
                (Token::Mark('}'), _) => depth -= 1,
                (Token::Name(name), Token::Mark(':')) if depth == 0 => {
                    body.declare(name);
                }
                _ => {}
            }
        }
    }

    fn directive(&mut self, body: &mut Body) -> Result<(), ParseError> {
        match self.name()? {
            // Headers of CUDA leave out the space before the type.
            reg if reg == ".reg" || reg.starts_with(".reg.") => {
                let kind = match reg.strip_prefix(".reg.") {
                    Some(kind) => kind.to_owned(),
                    None => self.name()?.trim_start_matches('.').to_owned(),
                };
                loop {
                    let name = self.name()?;
                    let declared = body.declare(name);
                    if self.eat('<') {
                        // `%r<82>` declares %r0 to %r81; only those that are used are looked up, by their prefix.
                        let count: u32 = self.number()?;
                        self.expect('>')?;
                        for index in 0..count {
                            let unique = body.declare(&format!("{name}{index}"));
                            body.entry.registers.insert(unique, kind.clone());
                        }
                    } else {
                        body.entry.registers.insert(declared, kind.clone());
                    }
                    if !self.eat(',') {
                        break;
                    }
                }
                self.expect(';')
            }
            ".loc" => self.loc(body),
            ".pragma" => self.skip_past(';'),
            space @ (".shared" | ".local" | ".param") => {
                let space = match space {
                    ".shared" => Space::Shared,
                    ".local" => Space::Local,
                    _ => Space::Param,
                };
                for mut variable in self.variables(space)? {
                    variable.name = body.declare(&variable.name);
                    body.entry.variables.push(variable);
                }
                Ok(())
            }
            other => self.error(format!("`{other}` is not known inside of a kernel")),
        }
    }

    /// `.loc 2 585 1, function_name $L__info_string2, inlined_at 2 597 1`
    fn loc(&mut self, body: &mut Body) -> Result<(), ParseError> {
        let here = (self.number()?, self.number()?, self.number()?);
        let mut outer = None;
        while self.eat(',') {
            match self.name()? {
                "function_name" => {
                    self.name()?;
                    if self.eat('+') {
                        self.integer()?;
                    }
                }
                "inlined_at" => outer = Some((self.number()?, self.number()?, self.number()?)),
                other => return self.error(format!("`{other}` is not known in `.loc`")),
            }
        }
        if let Some(outer) = outer {
            body.inlined_at.insert(here, outer);
        }
        let mut outermost = here;
        // The chain is short; the bound keeps positions that name each other from hanging the parser.
        let mut next = outer;
        for _ in 0..32 {
            let Some(at) = next else { break };
            outermost = at;
            next = body.inlined_at.get(&at).copied();
        }
        let loc = |(file, line, _): (u32, u32, u32)| Loc { file, line };
        body.site = Site { inner: loc(here), outer: loc(outermost) };
        Ok(())
    }

    fn statement(&mut self, body: &mut Body) -> Result<(), ParseError> {
        let start = self.tokens[self.at].start;
        let ptx_line = self.line();
        if let (Some(&Token::Name(name)), Some(Token::Mark(':'))) =
            (self.peek(), self.tokens.get(self.at + 1).map(|spanned| &spanned.token))
        {
            self.at += 2;
            let unique = body.resolve(name);
            if self.peek() == Some(&Token::Name(".branchtargets")) {
                self.at += 1;
                let mut targets = vec![body.resolve(self.name()?)];
                while self.eat(',') {
                    targets.push(body.resolve(self.name()?));
                }
                self.expect(';')?;
                body.entry.branch_targets.insert(unique, targets);
            } else {
                body.entry.labels.insert(unique, body.entry.statements.len());
            }
            return Ok(());
        }
        let mut guard = None;
        if self.eat('@') {
            let is_negated = self.eat('!');
            guard = Some((body.resolve(self.name()?), is_negated));
        }
        let opcode = self.name()?.split('.').map(str::to_owned).collect();
        let mut operands = Vec::new();
        while !self.eat(';') {
            operands.push(self.operand(body)?);
            self.eat(',');
        }
        let end = self.tokens[self.at - 1].end;
        let text = self.text[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
        body.entry.statements.push(Statement { guard, opcode, operands, site: body.site, text, ptx_line });
        Ok(())
    }

    fn operand(&mut self, body: &Body) -> Result<Operand, ParseError> {
        let operand = match self.next()? {
            Token::Mark('!') => Operand::Not(Box::new(self.operand(body)?)),
            Token::Mark('{') => Operand::Vector(self.operands_until(body, '}')?),
            Token::Mark('(') => Operand::List(self.operands_until(body, ')')?),
            Token::Mark('[') => {
                let base = self.operand(body)?;
                let mut offset = 0;
                if self.eat('+') {
                    offset = self.number()?;
                }
                let mut rest = Vec::new();
                while self.eat(',') {
                    rest.push(self.operand(body)?);
                }
                self.expect(']')?;
                Operand::Address { base: Box::new(base), offset, rest }
            }
            Token::Mark('-') => match self.next()? {
                Token::Integer(value) => Operand::Integer(-value),
                other => return self.error(format!("expected a number after `-`, found {other:?}")),
            },
            Token::Name(name) => Operand::Name(body.resolve(name)),
            Token::Integer(value) => Operand::Integer(value),
            Token::F32(bits) => Operand::F32(bits),
            Token::F64(bits) => Operand::F64(bits),
            other => return self.error(format!("expected an operand, found {other:?}")),
        };
        if self.eat('|') {
            return Ok(Operand::Pair(Box::new(operand), Box::new(self.operand(body)?)));
        }
        Ok(operand)
    }

    fn operands_until(&mut self, body: &Body, end: char) -> Result<Vec<Operand>, ParseError> {
        let mut operands = Vec::new();
        while !self.eat(end) {
            operands.push(self.operand(body)?);
            self.eat(',');
        }
        Ok(operands)
    }
}

/// Bytes of a scalar type, with or without its dot.
pub(crate) fn size_of_type(name: &str) -> Option<u64> {
    Some(match name.trim_start_matches('.') {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
.version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dyn[];
.global .align 4 .u32 table[3] = {1, 0x10};
.visible .entry k(
    .param .align 8 .b8 k_param_0[20],
    .param .u64 k_param_1
)
.maxntid 128, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .shared .align 4 .b8 red[32];
    .loc 1 10 3
    ld.param.u32 %r1, [k_param_0+4];
    .loc 2 7 1, function_name $L__info_string0, inlined_at 1 12 5
    .loc 2 3 1, function_name $L__info_string1+8, inlined_at 2 7 1
    { .reg.b32 %r1; mov.b32 %r1, -5; st.shared.v2.u32 [red+-4], {%r1, %r2}; }
    @!%p1 bra $L1;
    setp.lt.and.s32 %p0|%p1, %r1, %r2, !%p1;
$L1:
    ret;
}
    .file 1 "a.cu"
    .file 2 "b.cuh", 12, 34
    .section .debug_str { $L__info_string0: .b8 1,2 }
"#;

    #[test]
    fn a_module_with_all_kinds_of_things() {
        let tree = parse(SAMPLE).expect("valid");
        assert_eq!(tree.files[&2], "b.cuh");
        let [dynamic, table] = &tree.variables[..] else { panic!("two variables") };
        assert_eq!((dynamic.size, dynamic.align, dynamic.space), (0, 16, Space::Shared));
        assert_eq!(table.init.as_deref(), Some(&[1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0][..]));
        let [entry] = &tree.entries[..] else { panic!("one kernel") };
        assert_eq!(entry.params, [("k_param_0".to_owned(), 0, 20), ("k_param_1".to_owned(), 24, 8)]);
        assert_eq!((entry.param_bytes, entry.max_threads), (32, Some(128)));
        assert_eq!(entry.labels["$L1"], 5);
        let [load, mov, store, branch, setp, ret] = &entry.statements[..] else { panic!("six statements") };
        assert_eq!(load.site.outer, Loc { file: 1, line: 10 });
        // The register of the inner scope is another one, and its position leads out of both functions.
        let Operand::Name(inner) = &mov.operands[0] else { panic!("a name") };
        assert_ne!(inner, "%r1");
        assert_eq!(entry.registers[inner], "b32");
        assert_eq!(mov.site, Site { inner: Loc { file: 2, line: 3 }, outer: Loc { file: 1, line: 12 } });
        assert_eq!(mov.operands[1], Operand::Integer(-5));
        assert_eq!(store.opcode, ["st", "shared", "v2", "u32"]);
        let Operand::Address { offset: -4, .. } = store.operands[0] else { panic!("an address: {store:?}") };
        assert_eq!(branch.guard, Some(("%p1".to_owned(), true)));
        assert!(matches!(setp.operands[0], Operand::Pair(..)) && matches!(setp.operands[3], Operand::Not(_)));
        assert_eq!(ret.text, "ret;");
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, line, word) in [
            ("\n.strange x;", 2, ".strange"),
            (".entry k() { .weird; }", 1, ".weird"),
            (".entry k() {\n add.s32 %r1, ", 2, "ends"),
            (".address_size 32", 1, "64-bit"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.message.contains(word), "{text}: {error}");
        }
    }
}
