// Which elements of a tile an invocation loads; appended to matmul-tile.wgsl, whose constants it takes.
// Of load i of A: the row m and k of the first element, of load j of B: n and k. Neighbours take neighbouring k where four elements go
// to four rows of workgroup memory, so that they meet different banks.
fn loadOfA(local: u32, i: u32) -> vec2<u32> {
  if (TA) { return vec2((local / KT + i * (THREADS / KT)) * 4u, local % KT); }
  return vec2(local / DEEP + i * (THREADS / DEEP), local % DEEP * 4u);
}

fn loadOfB(local: u32, j: u32) -> vec2<u32> {
  if (TB) { return vec2(local / DEEP + j * (THREADS / DEEP), local % DEEP * 4u); }
  return vec2(local % FOURS * 4u, local / FOURS + j * (THREADS / FOURS));
}
