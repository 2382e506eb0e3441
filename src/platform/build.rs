//! Compiles this crate again when a migration comes: `sqlx::migrate!` reads them then.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
