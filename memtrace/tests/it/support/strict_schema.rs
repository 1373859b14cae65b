/// A published schema as tests hold reports to it: with no field that it does not name. Its readers ignore such fields, because
/// later releases add some.
pub(crate) fn strict_schema(published: &str) -> Value {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(fields) => {
                fields.values_mut().for_each(close);
                if fields.get("properties").is_some_and(Value::is_object) {
                    fields.entry("additionalProperties").or_insert(false.into());
                }
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut schema = serde_json::from_str(published).unwrap();
    close(&mut schema);
    schema
}
