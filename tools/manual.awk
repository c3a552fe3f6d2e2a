# Turns docs/manual.md into a man page: headings, paragraphs, lists, code blocks, `code` and **bold**.
function inline(text) {
  gsub(/\\/, "\\e", text)
  gsub(/-/, "\\-", text)
  while (match(text, /\*\*[^*]+\*\*/))
    text = substr(text, 1, RSTART - 1) "\\fB" substr(text, RSTART + 2, RLENGTH - 4) "\\fR" substr(text, RSTART + RLENGTH)
  while (match(text, /`[^`]+`/))
    text = substr(text, 1, RSTART - 1) "\\fB" substr(text, RSTART + 1, RLENGTH - 2) "\\fR" substr(text, RSTART + RLENGTH)
  if (text ~ /^[.']/) text = "\\&" text
  return text
}
/^# / {
  split($2, title, /[()]/)
  printf ".TH %s %s \"\" \"aftercheck %s\"\n", toupper(title[1]), title[2], version
  next
}
/^```/ {
  print code ? ".EE\n.RE" : ".PP\n.RS 4\n.EX"
  code = !code
  next
}
code { print inline($0); next }
/^## / { print ".SH " substr($0, 4); started = 0; next }
/^- \*\*/ {
  at = index($0, "**: ")
  print ".TP\n" inline(substr($0, 3, at - 1)) "\n" inline(substr($0, at + 4))
  blank = 0
  next
}
/^$/ { blank = 1; next }
{
  if (blank && started) print ".PP"
  blank = 0
  started = 1
  sub(/^ +/, "")
  print inline($0)
}
