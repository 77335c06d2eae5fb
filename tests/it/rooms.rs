//! The house stays in order: no file of `src` imports one that imports it, directly or in a circle; no room imports one
//! above it; the layers of the stack do not import one another.
//!
//! An import leads to the file that defines the item: a re-export (`pub use`) is a signpost, not an import. Tests inside
//! the files do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

/// The order of the rooms, from the ground up: a room imports only from those before it.
const ORDER: [&str; 20] = [
    "task",
    "error",
    "message",
    "sync",
    "route",
    "config",
    "request",
    "answer",
    "cache",
    "telemetry",
    "upstream",
    "fleet",
    "server",
    "stack",
    "gateway",
    "admin",
    "daemon",
    "simulator",
    "demo",
    "cli",
];

/// What the layers of the stack share: not layers themselves.
const SHARED_BY_LAYERS: [&str; 2] = ["state", "shared"];

type Module = Vec<String>;

/// The imports of every file, by module path.
struct House {
    files: BTreeSet<Module>,
    /// Where the items lead that a module re-exports.
    reexports: BTreeMap<(Module, String), Module>,
    /// The paths that each module names.
    named: BTreeMap<Module, Vec<Module>>,
}

impl House {
    fn read() -> Self {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut house = Self {
            files: BTreeSet::new(),
            reexports: BTreeMap::new(),
            named: BTreeMap::new(),
        };
        let files: Vec<_> = rust_files(&src)
            .into_iter()
            .filter(|file| *file != src.join("main.rs"))
            .map(|file| (module(file.strip_prefix(&src).unwrap()), file))
            .collect();
        house.files = files.iter().map(|(module, _)| module.clone()).collect();
        for (module, file) in files {
            let parsed = syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap();
            let mut reader = Reader {
                house: &mut house,
                module: module.clone(),
                paths: Vec::new(),
            };
            reader.visit_file(&parsed);
            let paths = reader.paths;
            house.named.insert(module, paths);
        }
        house
    }

    /// The file that defines what a path names.
    fn resolve(&self, path: &[String]) -> Option<Module> {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let length = (0..=path.len())
                .rev()
                .find(|length| self.files.contains(&path[..*length]))?;
            let (module, rest) = path.split_at(length);
            let lead = rest
                .first()
                .and_then(|name| self.reexports.get(&(module.to_vec(), name.clone())));
            match lead {
                Some(lead) => path = [lead, &rest[1..]].concat(),
                None => return Some(module.to_vec()),
            }
        }
        None
    }

    /// Which file imports which.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |(module, paths): (&Module, &Vec<Module>)| {
            let imported = paths
                .iter()
                .filter_map(|path| self.resolve(path))
                .filter(|imported| imported != module)
                .collect();
            (module.clone(), imported)
        };
        self.named.iter().map(of).collect()
    }
}

/// Collects what one file imports and re-exports.
struct Reader<'h> {
    house: &'h mut House,
    module: Module,
    paths: Vec<Module>,
}

impl Reader<'_> {
    /// A path as it is named here, from the crate's root; `None` for one that leads out of the crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        match path.first().map(String::as_str) {
            Some("crate") => Some(path[1..].to_vec()),
            Some("self") => Some([&self.module, &path[1..]].concat()),
            Some("super") => {
                let up = path.iter().take_while(|name| *name == "super").count();
                let kept = self.module.len().checked_sub(up)?;
                Some([&self.module[..kept], &path[up..]].concat())
            }
            Some(child) => {
                let inner = [&self.module[..], &[child.to_owned()]].concat();
                self.house
                    .files
                    .contains(&inner)
                    .then(|| [&self.module, path].concat())
            }
            None => None,
        }
    }

    fn read_use(&mut self, tree: &UseTree, before: &mut Module, is_public: bool) {
        let (last, known_as) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.read_use(&path.tree, before, is_public);
                before.pop();
                return;
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, before, is_public);
                }
                return;
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(name) => (name.ident.to_string(), name.rename.to_string()),
            UseTree::Glob(_) => ("*".to_owned(), "*".to_owned()),
        };
        let mut path = before.clone();
        if last != "self" {
            path.push(last);
        }
        let Some(path) = self.absolute(&path) else {
            return;
        };
        if is_public {
            let here = self.module.clone();
            self.house.reexports.insert((here, known_as), path);
        } else {
            self.paths.push(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => &[],
        };
        let is_test = attributes.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|name| name == "test")
        });
        if !is_test {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        self.read_use(&item.tree, &mut Vec::new(), is_public);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        // What an inline module names is named by its file.
        let inline = item.content.is_some();
        if inline {
            self.module.push(item.ident.to_string());
        }
        visit::visit_item_mod(self, item);
        if inline {
            self.module.pop();
        }
    }

    // `pub(super)` names a module and imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        let first = names.first().map(String::as_str);
        if matches!(first, Some("crate" | "super"))
            && let Some(path) = self.absolute(&names)
        {
            self.paths.push(path);
        }
        visit::visit_path(self, path);
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

fn module(file: &Path) -> Module {
    let file = file.with_extension("");
    let mut names: Module = file
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    if names
        .last()
        .is_some_and(|name| name == "mod" || name == "lib")
    {
        names.pop();
    }
    names
}

fn named(module: &Module) -> String {
    if module.is_empty() {
        "lib".to_owned()
    } else {
        module.join("::")
    }
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let imports = House::read().imports();
    let mut circles = Vec::new();
    for start in imports.keys() {
        let (mut reached, mut left) = (BTreeSet::new(), vec![start]);
        while let Some(module) = left.pop() {
            for next in imports.get(module).into_iter().flatten() {
                if reached.insert(next) {
                    left.push(next);
                }
            }
        }
        if reached.contains(start) {
            circles.push(named(start));
        }
    }
    assert!(circles.is_empty(), "in a circle: {circles:?}");
}

#[test]
fn a_room_imports_only_from_the_rooms_below_it() {
    let imports = House::read().imports();
    let level = |module: &Module| {
        let room = module.first()?;
        let level = ORDER.iter().position(|name| name == room);
        Some(level.unwrap_or_else(|| panic!("{room} has no place in the order of rooms")))
    };
    let mut upward = Vec::new();
    for (module, imported) in &imports {
        for other in imported {
            // The crate's root names rooms in its documentation, and imports none.
            let (Some(from), Some(to)) = (level(module), level(other)) else {
                continue;
            };
            if to > from {
                upward.push(format!("{} imports {}", named(module), named(other)));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn layers_of_the_stack_do_not_import_one_another() {
    let imports = House::read().imports();
    let is_layer = |module: &Module| {
        module.len() == 2 && module[0] == "stack" && !SHARED_BY_LAYERS.contains(&&*module[1])
    };
    let siblings: Vec<_> = imports
        .iter()
        .filter(|(module, _)| is_layer(module))
        .flat_map(|(module, imported)| imported.iter().map(move |other| (module, other)))
        .filter(|(_, other)| is_layer(other))
        .map(|(module, other)| format!("{} imports {}", named(module), named(other)))
        .collect();
    assert!(siblings.is_empty(), "{siblings:#?}");
}

#[test]
fn few_files_stand_at_the_root_and_the_crates_documentation_names_every_room() {
    let house = House::read();
    let folders: BTreeSet<_> = house
        .files
        .iter()
        .filter(|module| module.len() > 1)
        .map(|module| module[0].clone())
        .collect();
    let single: Vec<_> = house
        .files
        .iter()
        .filter(|module| module.len() == 1 && !folders.contains(&module[0]))
        .collect();
    // With main.rs and lib.rs.
    assert!(single.len() + 2 <= 5, "{single:?}");
    let lib =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for room in ORDER {
        assert!(
            lib.contains(&format!("[`{room}`]")),
            "lib.rs does not name {room}"
        );
    }
}
