//! The operator's token: the one of the first start, in the data folder.

use std::path::Path;

use platform::{Scope, files};
use secrecy::ExposeSecret as _;

use crate::{
    Users,
    error::UsersError,
    model::{NewToken, TokenId, TokenKind},
    store,
    token::Token,
};

/// Whoever holds the data folder is the operator: the token in it is taken into the database, unless it was
/// revoked there; then, and where there is none, a fresh one is made (mode 0600).
pub(crate) async fn ensure_token(users: &Users, data: &Path) -> Result<(), UsersError> {
    let file = files::operator_token_file(data);
    let kept = files::read_if_present(&file)?.and_then(|text| Token::parse(text.trim())).filter(|token| token.kind == TokenKind::Operator);
    let mut transaction = users.inner.database.begin_for_all().await?;
    let known = match &kept {
        Some(token) => store::tokens::look_up(&mut transaction, &token.handle).await?,
        None => None,
    };
    let token = match (kept, known) {
        (Some(token), Some(known)) if !known.revoked && token.matches(&known.hash) => return Ok(()),
        (Some(token), None) => token,
        _ => {
            let (token, text) = Token::generate(TokenKind::Operator);
            files::private_folder(data)?;
            files::write_private(&file, format!("{}\n", text.expose_secret()).as_bytes())?;
            token
        }
    };
    let name = "operator token of a data folder".to_owned();
    let new =
        NewToken { kind: TokenKind::Operator, user: None, name, scopes: vec![Scope::Admin], servers: None, tools: None, expires_at: None };
    users.put_token(&mut transaction, &platform::Actor::system("start"), TokenId::fresh(), &token, &new).await?;
    Ok(transaction.commit().await?)
}
