"""What a SQL text is found to be, which tables and functions it names, and that nothing hides a table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachalot.analysis.lexer import lex
from cachalot.analysis.rawsql import MEMOISED_LENGTH, Kind, analyse, canonical_table

PG, MY, LITE, ORA, MS = "postgresql", "mysql", "sqlite", "oracle", "microsoft"
VENDORS = [PG, MY, LITE, ORA, MS, "other"]


def names(text):
    """Split a list of names."""
    return frozenset(text.split())


READS = [
    # statement, vendor, tables, functions
    ('SELECT "a"."x" FROM "a"', PG, "a", ""),
    ('SELECT * FROM "public"."T" x, other y', PG, "t other", ""),
    ("SELECT * FROM a, LATERAL f(a.x) y, b", PG, "a b", "f"),
    ("SELECT * FROM ONLY a JOIN ONLY (b) USING (id)", PG, "a b", ""),
    ("SELECT * FROM (a JOIN b ON a.i = b.i) LEFT JOIN c ON true", PG, "a b c", ""),
    ("SELECT * FROM ((a CROSS JOIN b) x NATURAL JOIN c), d", PG, "a b c d", ""),
    ("SELECT * FROM (SELECT * FROM a) x, (VALUES (1)) y(z), b", PG, "a b", ""),
    ("SELECT * FROM a AS x(p, q), b r(s)", PG, "a b", ""),
    ("SELECT * FROM generate_series(1, 3) g(n), unnest(%s) WITH ORDINALITY AS t(a, b), c", PG,
     "c", "generate_series unnest"),
    ("SELECT * FROM ROWS FROM (f(1), g(2)) AS t(a, b)", PG, "", "f g"),
    ("SELECT * FROM a WHERE x IS DISTINCT FROM y", PG, "a", ""),
    ("SELECT * FROM a WHERE x IS NOT DISTINCT FROM y", PG, "a", ""),
    ("SELECT EXTRACT(year FROM d), SUBSTRING(x FROM 2), TRIM(BOTH ' ' FROM z) FROM a", PG,
     "a", "extract substring trim"),
    ("SELECT OVERLAY(x PLACING 'y' FROM 2), POSITION(a IN b) FROM t", PG, "t", "overlay position"),
    ("SELECT EXTRACT(year FROM (SELECT max(d) FROM b)) FROM a", PG, "a b", "extract max"),
    ("SELECT x::varchar(10), CAST(y AS numeric(10, 2)), z::timestamp(6) FROM t", PG, "t", ""),
    ("SELECT DISTINCT ON (a) a FROM t ORDER BY a, b", PG, "t", ""),
    ("SELECT a FROM t GROUP BY GROUPING SETS ((a, b), (a)), c HAVING count(*) > 1", PG, "t", "count"),
    ("SELECT sum(x) FILTER (WHERE y) OVER (PARTITION BY a, b ORDER BY c) FROM t", PG, "t", "sum"),
    ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM t", PG, "t", "percentile_cont"),
    ("SELECT f(x) FROM t WINDOW w AS (PARTITION BY a), v AS (ORDER BY b)", PG, "t", "f"),
    ('SELECT pg_catalog.now(), "My"."Fn"(1)', PG, "", "now fn"),
    ("SELECT current_timestamp, t.user, x AS user, user FROM t", PG, "t", "current_timestamp user"),
    ("SELECT user FROM t", LITE, "t", ""),
    ("SELECT a FROM t UNION ALL SELECT b FROM u EXCEPT (SELECT c FROM v)", PG, "t u v", ""),
    ("(SELECT a FROM t) UNION (SELECT a FROM u)", PG, "t u", ""),
    ("TABLE t", PG, "t", ""),
    ("SELECT 1 UNION TABLE t", PG, "t", ""),
    ("VALUES (1), (2)", PG, "", ""),
    ("WITH x AS (SELECT * FROM a) SELECT * FROM x, b", PG, "a b", ""),
    ("WITH x(p, q) AS MATERIALIZED (SELECT * FROM a), y AS (SELECT * FROM x) SELECT * FROM y", PG, "a", ""),
    ("WITH t AS (SELECT * FROM t) SELECT * FROM t", PG, "t", ""),
    ("WITH RECURSIVE t AS (SELECT 1 UNION SELECT * FROM t) SELECT * FROM t", PG, "", ""),
    ("WITH x AS (SELECT 1) SELECT * FROM s.x", PG, "x", ""),
    ('WITH x AS (SELECT 1) SELECT * FROM "s"."x"', PG, "x", ""),
    ('WITH "X" AS (SELECT 1) SELECT * FROM x', PG, "x", ""),
    ("SELECT * FROM (WITH x AS (SELECT 1 FROM a) SELECT * FROM x) y, x", PG, "a x", ""),
    ("WITH RECURSIVE x AS (SELECT 1 FROM a) SEARCH DEPTH FIRST BY i, j SET o SELECT * FROM x, b",
     PG, "a b", ""),
    ("SELECT x->>'from', y @> '{}', z ?| array['a'], a[1:f(2)] FROM t", PG, "t", "f"),
    ("SELECT $$ FROM x $$, $q$ it's FROM y $q$, E'\\' FROM z' FROM t", PG, "t", ""),
    ("SELECT /* a /* nested */ FROM x */ 1 FROM t -- FROM y", PG, "t", ""),
    ("SELECT U&'\\0061' FROM U&\"\\0061b\"", PG, "ab", ""),
    ("SELECT 'AS' FROM t", PG, "t", ""),
    ("SELECT 1FROM t", PG, "t", ""),
    ("SELECT * FROM a set(x, y), b values(z), c option (v), d", PG, "a b c d", ""),
    ("SELECT * FROM a \u017fet(x), b", PG, "a b", ""),
    ("SELECT * FROM a UNION VALUES (1), (2)", PG, "a", ""),
    ("SELECT * FROM a option NOT INDEXED, b", LITE, "a b", ""),
    ("SELECT * FROM a OPTION (MAXDOP 1, FAST 2)", MS, "a", ""),
    ("SELECT * FROM t\u00a0x", PG, "t\u00a0x", ""),
    ("SELECT * FROM t TABLESAMPLE SYSTEM (10)", PG, "t", "tablesample"),
    ("COPY t (a, b) TO STDOUT", PG, "t", ""),
    ("COPY (SELECT f(a) FROM t) TO STDOUT", PG, "t", "f"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t", PG, "t", ""),
    ("FETCH 10 FROM c", PG, "", ""),
    ("SHOW search_path", PG, "", ""),
    ("EXPLAIN SELECT * FROM t", PG, "t", ""),
    ("EXPLAIN (COSTS off) DELETE FROM t", PG, "t", ""),
    ("EXPLAIN (ANALYZE off) DELETE FROM t", PG, "t", ""),
    ("EXPLAIN ANALYZE SELECT * FROM t", PG, "t", ""),
    ("SELECT * FROM t WHERE a = %s AND b = %(b)s AND c LIKE '%%x'", PG, "t", ""),
    ("SELECT * FROM `db`.`T` x STRAIGHT_JOIN u", MY, "t u", ""),
    ("SELECT 'it\\'s' FROM t", MY, "t", ""),
    ('SELECT "FROM x" FROM t # FROM y', MY, "t", ""),
    ("SELECT 5--1 FROM t -- FROM y", MY, "t", ""),
    ("SELECT /*! a FROM t */", MY, "t", ""),
    ("SELECT /*!50000 a */ FROM t", MY, "t", ""),
    ("SELECT * FROM 2t, db.3t", MY, "2t 3t", ""),
    ("SELECT a FROM t USE INDEX FOR ORDER BY (i), u", MY, "t u", ""),
    ("SELECT a FROM t USE INDEX FOR JOIN (i), u", MY, "t u", ""),
    ("SELECT a INTO @x FROM t", MY, "t", "@x"),
    ("SELECT a FROM t INTO OUTFILE 'x'", MY, "t", ""),
    ("SELECT @@session.time_zone FROM dual", MY, "", "@@session.time_zone"),
    ("SELECT left(a, 2), if(b, 1, 2), replace(a, 'x', 'y') FROM t", MY, "t", "left if replace"),
    ("DESC t", MY, "", ""),
    ("ANALYZE FORMAT=JSON SELECT * FROM t", MY, "t", ""),
    ("SELECT a FROM t LIMIT 1, 2", MY, "t", ""),
    ("SELECT * FROM 'T', [u], `v`, \"w\"", LITE, "t u v w", ""),
    ("SELECT * FROM a offset, b", LITE, "a b", ""),
    ("SELECT * FROM a for, b window", LITE, "a b", ""),
    ("SELECT date(), date('now'), strftime('%Y'), strftime('%Y', x) FROM t", LITE,
     "t", "date date() strftime strftime()"),
    ("SELECT CURRENT_DATE", LITE, "", "current_date"),
    ("EXPLAIN QUERY PLAN SELECT * FROM t", LITE, "t", ""),
    ("SELECT * FROM t WHERE a = ?1 AND b = :name AND c = @x", LITE, "t", ""),
    ("SELECT q'[it's FROM x]', sysdate, s.nextval FROM t, dual", ORA, "t", "sysdate nextval"),
    ("SELECT NEXT VALUE FOR s FROM db..t", MS, "t", "nextval"),
    ("SELECT TOP (5) * FROM [a].[B] WITH (NOLOCK), c OUTER APPLY f(c.x) y", MS, "b c f", "f"),
]  # fmt: skip

WRITES = [
    # statement, vendor, reads, writes
    ("INSERT INTO t (user, x) VALUES (%s, %s)", PG, "", "t"),
    ('INSERT INTO "S"."T" SELECT * FROM u', PG, "u", "t"),
    ("INSERT INTO t VALUES (1) ON CONFLICT (a, b) DO UPDATE SET x = excluded.x, y = 2 RETURNING a, b",
     PG, "", "t"),
    ("INSERT INTO t TABLE u", PG, "u", "t"),
    ("INSERT INTO t WITH x AS (SELECT * FROM v) SELECT * FROM x", PG, "v", "t"),
    ("INSERT INTO t DEFAULT VALUES", PG, "", "t"),
    ("UPDATE ONLY t AS x SET a = 1, b = 2 FROM u, v WHERE x.i = u.i", PG, "u v", "t"),
    ("UPDATE t SET a = (SELECT max(b) FROM u)", PG, "u", "t"),
    ("DELETE FROM ONLY t USING u JOIN v USING (i), w WHERE true", PG, "u v w", "t"),
    ("WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x, y", PG, "y", "t"),
    ("WITH x AS (DELETE FROM a RETURNING *), y AS (UPDATE b SET c = 1) INSERT INTO d SELECT * FROM x",
     PG, "", "a b d"),
    ("SELECT * FROM (WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x) z", PG, "", "a"),
    ("WITH x AS (SELECT 1) DELETE FROM t USING x", PG, "", "t"),
    (("MERGE INTO t AS x USING (SELECT * FROM u) y ON x.i = y.i WHEN MATCHED THEN UPDATE SET a = 1 "
     "WHEN NOT MATCHED THEN INSERT (a, b) VALUES (1, 2)"), PG, "u", "t"),
    ("MERGE INTO t USING u ON t.i = u.i WHEN MATCHED THEN DELETE", PG, "u", "t"),
    ("TRUNCATE a, ONLY b RESTART IDENTITY", PG, "", "a b"),
    ('TRUNCATE TABLE "x"."A"', PG, "", "a"),
    ("COPY t (a, b) FROM STDIN WITH (FORMAT csv)", PG, "", "t"),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY s.v", PG, "", "v"),
    ("EXPLAIN ANALYZE VERBOSE UPDATE t SET a = 1", PG, "", "t"),
    ("EXPLAIN (COSTS off, ANALYZE) DELETE FROM t", PG, "", "t"),
    ("INSERT LOW_PRIORITY IGNORE INTO t SET a = 1", MY, "", "t"),
    ("INSERT t VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a), b = 2", MY, "", "t"),
    ("INSERT INTO t SELECT a FROM u ON DUPLICATE KEY UPDATE a = 1, b = 2", MY, "u", "t"),
    ("REPLACE INTO t VALUES (1)", MY, "", "t"),
    ("UPDATE a, b SET a.x = b.x", MY, "", "a b"),
    ("UPDATE a JOIN b ON a.i = b.i JOIN (SELECT * FROM c) d SET a.x = 1, b.y = 2", MY, "c", "a b"),
    ("DELETE x, b FROM a AS x JOIN b ON x.i = b.i", MY, "", "a b"),
    ("DELETE FROM a USING a JOIN b USING (i)", MY, "", "a b"),
    ("LOAD DATA LOCAL INFILE 'x' INTO TABLE `d`.`T` SET a = (SELECT 1 FROM u)", MY, "u", "t"),
    ("ANALYZE UPDATE t SET a = 1", MY, "", "t"),
    ("/*!40000 INSERT INTO t VALUES (1) */", MY, "", "t"),
    ('INSERT INTO "t" VALUES ("x")', MY, "", "t"),
    ("INSERT OR IGNORE INTO t VALUES (1)", LITE, "", "t"),
    ("UPDATE OR REPLACE t SET a = 1 FROM u", LITE, "u", "t"),
    ("REPLACE INTO [T] SELECT * FROM u", LITE, "u", "t"),
    ("INSERT ALL INTO a VALUES (1) INTO b VALUES (2) SELECT * FROM dual", ORA, "", "a b"),
    ("INSERT INTO t (a) VALUES (1) RETURNING i INTO %s", ORA, "", "t"),
    ("DELETE x FROM t x", MS, "", "x t"),
    ("UPDATE TOP (5) db..t SET a = 1", MS, "", "t"),
]  # fmt: skip

KINDS = [
    # statement, vendor, kind, the attributes that differ from the default
    ("", PG, Kind.HARMLESS, {}),
    (" ; -- nothing", PG, Kind.HARMLESS, {}),
    ("CREATE TABLE t (a int)", PG, Kind.UNKNOWN, {}),
    ("CREATE TEMP TABLE t AS SELECT 1", PG, Kind.UNKNOWN, {}),
    ("ALTER TABLE t ADD b int", PG, Kind.UNKNOWN, {}),
    ("CALL f()", PG, Kind.UNKNOWN, {}),
    ("DO $$ BEGIN DELETE FROM t; END $$", PG, Kind.UNKNOWN, {}),
    ("EXECUTE p", PG, Kind.UNKNOWN, {}),
    ("EXPLAIN ANALYZE EXECUTE p", PG, Kind.UNKNOWN, {}),
    ("EXPLAIN ANALYZE CREATE TABLE u AS SELECT * FROM t", PG, Kind.UNKNOWN, {}),
    ("TRUNCATE t CASCADE", PG, Kind.UNKNOWN, {}),
    ("SELECT * INTO u FROM t", PG, Kind.UNKNOWN, {}),
    ("SELECT 'x", PG, Kind.UNKNOWN, {}),
    ("SELECT (1", PG, Kind.UNKNOWN, {}),
    ("SELECT 1)", PG, Kind.UNKNOWN, {}),
    ("SELECT 1 /* x", PG, Kind.UNKNOWN, {}),
    ("SELECT * FROM %s", PG, Kind.UNKNOWN, {}),
    ("FROB t", PG, Kind.UNKNOWN, {}),
    ("SELECT '\\' FROM t --'", PG, Kind.UNKNOWN, {}),
    ("UPDATE (SELECT * FROM t) SET a = 1", ORA, Kind.UNKNOWN, {}),
    ("SELECT 1 DELETE FROM t", MS, Kind.UNKNOWN, {}),
    ("WITH x AS (SELECT * FROM t) DELETE FROM x", MS, Kind.UNKNOWN, {}),
    ("LOCK TABLES t WRITE", MY, Kind.UNKNOWN, {}),
    ("ANALYZE TABLE t", MY, Kind.UNKNOWN, {}),
    ("BEGIN f(1); END;", ORA, Kind.UNKNOWN, {}),
    ("ANALYZE t", PG, Kind.HARMLESS, {}),
    ("VACUUM FULL t", PG, Kind.HARMLESS, {}),
    ("NOTIFY c, 'x'", PG, Kind.HARMLESS, {}),
    ("LOCK TABLE t IN SHARE MODE", PG, Kind.HARMLESS, {}),
    ("SET CONSTRAINTS ALL DEFERRED", PG, Kind.HARMLESS, {}),
    ("PREPARE p AS SELECT 1", PG, Kind.HARMLESS, {}),
    ("DISCARD PLANS", PG, Kind.HARMLESS, {}),
    ("PRAGMA foreign_keys = ON", LITE, Kind.HARMLESS, {}),
    ("PRAGMA main.table_info(t)", LITE, Kind.HARMLESS, {}),
    ("PRAGMA case_sensitive_like = 1", LITE, Kind.CONTEXT, {}),
    ("SET search_path TO a, b", PG, Kind.CONTEXT, {"name": "search_path"}),
    ("SET LOCAL app.uid = 1", PG, Kind.CONTEXT, {"name": "app.uid", "local": True}),
    ("SET SESSION \"Search_Path\" = 'a'", PG, Kind.CONTEXT, {"name": "search_path"}),
    ("SET x TO DEFAULT", PG, Kind.CONTEXT, {"name": "x", "reset": True}),
    ("SET TIME ZONE 'UTC'", PG, Kind.CONTEXT, {"name": "time zone"}),
    ("SET TimeZone = 'UTC'", PG, Kind.CONTEXT, {"name": "time zone"}),
    ("SET LOCAL ROLE x", PG, Kind.CONTEXT, {"name": "role", "local": True}),
    ("SET SESSION AUTHORIZATION x", PG, Kind.CONTEXT, {"name": "session_authorization"}),
    ("SET NAMES 'utf8'", MY, Kind.CONTEXT, {"name": "names"}),
    ("SET autocommit=0", MY, Kind.CONTEXT, {"name": "autocommit"}),
    ("SET a = 1, @@session.autocommit = 1", MY, Kind.CONTEXT, {"name": "autocommit"}),
    ("SET SESSION time_zone = '+0:00'", MY, Kind.CONTEXT, {"name": "time zone"}),
    ("SET @x = 1", MY, Kind.CONTEXT, {"name": "@x"}),
    ("SET a = 1, b = 2", MY, Kind.CONTEXT, {}),
    ("SET STATEMENT x = 1 FOR DELETE FROM t", MY, Kind.UNKNOWN, {}),
    ("USE db", MY, Kind.CONTEXT, {"name": "database"}),
    ("RESET ALL", PG, Kind.CONTEXT, {"name": "*", "reset": True}),
    ("RESET ROLE", PG, Kind.CONTEXT, {"name": "role", "reset": True}),
    ("DISCARD ALL", PG, Kind.CONTEXT, {"name": "*", "reset": True}),
    ("SELECT set_config('search_path', %s, false)", PG, Kind.CONTEXT, {"name": "search_path"}),
    ("SELECT pg_catalog.set_config('a.b', 'x', true)", PG, Kind.CONTEXT, {"name": "a.b", "local": True}),
    ("SELECT set_config(%s, %s, true)", PG, Kind.CONTEXT, {"local": True}),
    ("ALTER SESSION SET NLS_SORT = 'X'", ORA, Kind.CONTEXT, {"name": "nls_sort"}),
    ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", PG, Kind.ISOLATION, {"isolation": "repeatable read"}),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", PG, Kind.ISOLATION,
     {"isolation": "serializable"}),
    ("SET default_transaction_isolation TO 'read committed'", PG, Kind.ISOLATION,
     {"isolation": "read committed"}),
    ("SET default_transaction_isolation = %s", PG, Kind.ISOLATION, {"isolation": "default"}),
    ("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", MY, Kind.ISOLATION,
     {"isolation": "read uncommitted"}),
    ("SET @@tx_isolation = 'REPEATABLE-READ'", MY, Kind.ISOLATION, {"isolation": "repeatable read"}),
    ("BEGIN", PG, Kind.BEGIN, {}),
    ("BEGIN IMMEDIATE", LITE, Kind.BEGIN, {}),
    ("BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", PG, Kind.BEGIN,
     {"isolation": "serializable"}),
    ("START TRANSACTION WITH CONSISTENT SNAPSHOT", MY, Kind.BEGIN, {}),
    ("START SLAVE", MY, Kind.UNKNOWN, {}),
    ("COMMIT", PG, Kind.COMMIT, {}),
    ("END TRANSACTION", PG, Kind.COMMIT, {}),
    ("COMMIT AND CHAIN", PG, Kind.COMMIT, {"chain": True}),
    ("COMMIT AND NO CHAIN", PG, Kind.COMMIT, {}),
    ("ROLLBACK WORK AND CHAIN", PG, Kind.ROLLBACK, {"chain": True}),
    ('SAVEPOINT "S1_x2"', PG, Kind.SAVEPOINT, {"name": "s1_x2"}),
    ('RELEASE SAVEPOINT "s1"', PG, Kind.RELEASE, {"name": "s1"}),
    ("RELEASE s1", PG, Kind.RELEASE, {"name": "s1"}),
    ("ROLLBACK TO SAVEPOINT `s1`", MY, Kind.ROLLBACK_TO, {"name": "s1"}),
    ("ROLLBACK TRANSACTION TO s1", LITE, Kind.ROLLBACK_TO, {"name": "s1"}),
    ("PREPARE TRANSACTION 'Gid'", PG, Kind.PREPARE_TRANSACTION, {"name": "Gid"}),
    ("COMMIT PREPARED 'g'", PG, Kind.COMMIT_PREPARED, {"name": "g"}),
    ("ROLLBACK PREPARED 'g'", PG, Kind.ROLLBACK_PREPARED, {"name": "g"}),
    ("XA START 'x'", MY, Kind.BEGIN, {"name": "x"}),
    ("XA END 'x'", MY, Kind.HARMLESS, {"name": "x"}),
    ("XA PREPARE 'x'", MY, Kind.PREPARE_TRANSACTION, {"name": "x"}),
    ("XA COMMIT 'x'", MY, Kind.COMMIT_PREPARED, {"name": "x"}),
    ("XA COMMIT 'x' ONE PHASE", MY, Kind.COMMIT, {"name": "x"}),
    ("XA ROLLBACK 'x'", MY, Kind.ROLLBACK_PREPARED, {"name": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "vendor", "tables", "functions"), READS)
def test_a_read_names_its_tables_and_functions(sql, vendor, tables, functions):
    """A statement that certainly only reads is a READ, with all its tables and calls and no other."""
    (statement,) = analyse(sql, vendor)
    assert statement.kind is Kind.READ
    assert statement.reads == (frozenset({"t\u00a0x"}) if "\u00a0" in tables else names(tables))
    assert statement.functions == names(functions)
    assert not statement.writes


@pytest.mark.parametrize(("sql", "vendor", "reads", "writes"), WRITES)
def test_a_write_names_what_it_changes(sql, vendor, reads, writes):
    """A statement that changes rows is a WRITE, and every table it changes is named."""
    (statement,) = analyse(sql, vendor)
    assert statement.kind is Kind.WRITE
    assert (statement.reads, statement.writes) == (names(reads), names(writes))


@pytest.mark.parametrize(("sql", "vendor", "kind", "attributes"), KINDS)
def test_other_statements_are_told_apart(sql, vendor, kind, attributes):
    """Sessions, transactions and the unknown each have their kind, with the name or level it concerns."""
    (statement,) = analyse(sql, vendor)
    expected = {"name": "", "local": False, "reset": False, "isolation": "", "chain": False} | attributes
    found = {name: getattr(statement, name) for name in expected}
    if kind is Kind.ISOLATION:
        found["name"] = expected["name"]
    assert (statement.kind, found) == (kind, expected)


@pytest.mark.parametrize("suffix", ["FOR UPDATE", "FOR NO KEY UPDATE OF t SKIP LOCKED", "FOR SHARE",
                                    "FOR KEY SHARE", "LOCK IN SHARE MODE"])  # fmt: skip
def test_a_locking_read_says_so(suffix):
    """A read that locks rows is marked, and the table after OF is not counted twice."""
    (statement,) = analyse(f"SELECT * FROM t x, u {suffix}", PG)
    assert statement.locking
    assert statement.reads == {"t", "u"}


def test_several_statements_are_each_classified():
    """Semicolons separate statements, except inside literals and procedural bodies."""
    kinds = [one.kind for one in analyse("SELECT ';'; INSERT INTO t VALUES (1); COMMIT;", PG)]
    assert kinds == [Kind.READ, Kind.WRITE, Kind.COMMIT]
    body = "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM u; END; COMMIT"
    assert [one.kind for one in analyse(body, LITE)] == [Kind.UNKNOWN, Kind.COMMIT]


def test_literals_are_reported_for_the_clock_check():
    """Every string that could mean the current time is handed on, SQLite's double-quoted ones included."""
    assert "it's" in analyse("SELECT 'it''s'", PG)[0].literals
    assert "now" in analyse('SELECT date("now")', LITE)[0].literals
    assert "now" in analyse("SELECT $a$now$a$, E'x\\n'", PG)[0].literals


@pytest.mark.parametrize(
    "name",
    [
        "auth_user",
        "Auth_User",
        '"public"."AUTH_USER"',
        "`db`.`auth_user`",
        "[Auth_User]",
        'public"."auth_user',
    ],
)
def test_spellings_of_a_table_have_one_canonical_name(name):
    """Quotes, schema and case never make two tables of one."""
    assert canonical_table(name) == "auth_user"


@pytest.mark.parametrize("name", ["x" * 80, f'"{"x" * 80}"', f'public"."{"x" * 80}', "ä" * 60])
def test_name_that_postgresql_cuts(name):
    """A name is known by the 63 bytes that PostgreSQL keeps of it, and by nothing more."""
    kept = name.strip('"').rpartition('"')[2].encode()[:63].decode(errors="ignore")
    assert len(kept.encode()) in {62, 63}
    assert canonical_table(name) == canonical_table(kept) == kept


def test_a_text_above_the_bound_is_not_memoised():
    """Bulk loads are analysed, but do not push the repeated statements out of memory."""
    text = "INSERT INTO t VALUES " + ", ".join(["(1)"] * MEMOISED_LENGTH)
    assert analyse(text, PG)[0].writes == {"t"}
    assert analyse(text, PG)[0] is not analyse(text, PG)[0]


FRAGMENTS = st.lists(
    st.sampled_from(
        "SELECT FROM JOIN ( ) , . ; ' \" ` [ ] $$ $a$ -- /* */ /*! \n # \\ a b \"x\" 'y' WITH AS INSERT INTO "
        "UPDATE SET DELETE USING MERGE VALUES ON FOR COPY TO EXPLAIN ANALYZE TRUNCATE SET_CONFIG BEGIN END "
        "ROLLBACK SAVEPOINT TABLE DECLARE CURSOR XA LOAD DATA PRAGMA RESET = %s ? :: :x @x 1 .5 DISTINCT IS "
        "LATERAL ONLY TOP REPLACE ALTER SESSION TRANSACTION SEARCH RECURSIVE".split(" ")
    ),
    max_size=25,
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(FRAGMENTS.map(" ".join), FRAGMENTS.map("".join), st.text()), st.sampled_from(VENDORS))
def test_any_text_gets_an_answer(text, vendor):
    """Whatever is sent, there is an answer and no exception."""
    assert analyse(text, vendor)
    lex(text, vendor)


HIDING = {
    PG: ["'{}'", "E'\\'{}'", "$x${}$x$", "/* /* */ {} */ 1", "1 --{}\n"],
    MY: ["'\\\\{}'", "1 # {}\n", "/* {} */ 1", "1 -- {}\n"],
    LITE: ["'{}'", "/* {} */ 1", "1 --{}\n"],
    ORA: ["'{}'", "q'[{}]'", "/* {} */ 1"],
    MS: ["'{}'", "/* /* */ {} */ 1"],
}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_name_inside_a_literal_or_comment_is_not_a_table(data):
    """Text that the database does not run names no table."""
    vendor = data.draw(st.sampled_from(sorted(HIDING)))
    hiding = data.draw(st.sampled_from(HIDING[vendor]))
    hidden = data.draw(
        st.sampled_from([" FROM secret ", ", secret ", "; DELETE FROM secret;", ") JOIN secret"])
    )
    (statement,) = analyse(f"SELECT {hiding.format(hidden)} FROM t", vendor)
    assert (statement.kind, statement.reads) == (Kind.READ, {"t"})


QUOTES = {
    PG: ['"{}"', "{}"],
    MY: ["`{}`", "{}"],
    LITE: ['"{}"', "`{}`", "[{}]", "'{}'", "{}"],
    ORA: ['"{}"', "{}"],
    MS: ['"{}"', "[{}]", "{}"],
}
SHAPES = [
    "SELECT * FROM {}",
    "SELECT * FROM x JOIN {} y ON 1 = 1",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM x, {})",
    "INSERT INTO {} VALUES (1)",
    "DELETE FROM {}",
    "UPDATE {} SET a = 1",
]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.from_regex(r"z[a-z_]{2,12}[0-9]?", fullmatch=True))
def test_quoting_and_case_never_change_the_canonical_name(data, name):
    """However a table is written, it is found under the same name."""
    vendor = data.draw(st.sampled_from(sorted(QUOTES)))
    quote = data.draw(st.sampled_from(QUOTES[vendor]))
    spelled = quote.format(data.draw(st.sampled_from([name, name.upper(), name.title()])))
    if data.draw(st.booleans()) and spelled[0] != "'":
        spelled = quote.format("Schema") + data.draw(st.sampled_from([".", " . "])) + spelled
    (statement,) = analyse(data.draw(st.sampled_from(SHAPES)).format(spelled), vendor)
    assert (statement.reads | statement.writes) - {"x"} == {canonical_table(name)}


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql", "mysql", "microsoft"])
@pytest.mark.parametrize("sql", ["UPDATE TOP (f(5)) t SET a = 1", "UPDATE TOP (5(5) a) b", "SELECT 1)"])
def test_parenthesis_that_closes_nothing(sql, vendor):
    """A text whose parentheses do not match as they are read is not understood, and raises nothing."""
    (statement,) = analyse(sql, vendor)
    assert statement.kind is Kind.UNKNOWN
