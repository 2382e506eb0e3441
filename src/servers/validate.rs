//! Temporary.
use serde::Serialize; use utoipa::ToSchema;
#[derive(Debug,Clone,Serialize,ToSchema)] pub struct Report{pub valid:bool,pub issues:Vec<String>}
#[derive(Default,Clone,Debug)] pub struct ExpectedRegistries{pub npm:Option<String>,pub pypi:Option<String>}
pub fn validate(_:&[u8])->Report{Report{valid:true,issues:vec![]}}
pub fn validate_with(d:&[u8],_:&ExpectedRegistries)->Report{validate(d)}
