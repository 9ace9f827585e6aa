// Which elements of a tile an invocation loads; appended to matmul-tile.wgsl and matmul-tile-matrix.wgsl, whose constants it takes.
// Of load i the row or column, and k, of the first element: neighbours load neighbours, along k or across it.
fn loadOf(local: u32, i: u32, along: bool) -> vec2<u32> {
  if (along) { return vec2(local / DEEP + i * (THREADS / DEEP), local % DEEP * 4u); }
  return vec2(local % FOURS * 4u, local / FOURS + i * (THREADS / FOURS));
}
