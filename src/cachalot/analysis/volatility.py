"""Which functions give a result that follows from tables and arguments alone, and which may change rows.

The contract: both questions are answered by lists of what is known, and an unknown name is the bad answer to
either. What depends on a setting of the session (locale, time zone, text search configuration) counts as
following from its arguments, because the settings are part of every key.

Three things the names cannot show, which the caller has to look at:

* SQLite's and PostgreSQL's date functions and casts read the text ``'now'`` as the clock. The literals *and*
  the parameters of a statement must be checked with :func:`is_time_word`.
* SQLite's ``date()`` without an argument is the clock too; ``rawsql`` reports it as ``date()``, which is on
  no list.
* PostgreSQL's ``age(x)`` counts from today and ``age(x, y)`` does not; ``age`` is on no list.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["is_time_word", "may_write", "unstable"]

# Anywhere in the text: PostgreSQL also reads '04:05 today', '[now,infinity)' and '{now}' (manual, 8.5.1.4).
_TIME_WORD = re.compile(
    r"(?<![^\W\d])(?:now|today|tomorrow|yesterday|localtime|localtimestamp)(?!\w)", re.IGNORECASE
)
_RANDOM = frozenset({"rand", "random"})
_CLOCKS = ("date", "datetime", "julianday", "time", "timestamp", "unixepoch", "unix_timestamp", "strftime")

_COMMON = frozenset(
    """
    abs acos any_value asin atan atan2 avg bit_and bit_or bit_xor bool_and bool_or cast ceil ceiling
    char_length character_length chr coalesce concat concat_ws convert corr cos cot count covar_pop
    covar_samp cume_dist degrees dense_rank every exp extract first_value floor greatest grouping if
    initcap instr lag last_value lead least left length listagg ln log log10 log2 lower lpad ltrim max md5
    min mod nth_value ntile nullif octet_length overlay pad percent_rank percentile_cont percentile_disc
    pi position pow power radians rank regexp_like regexp_replace regexp_substr regr_avgx regr_avgy
    regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace reverse right
    round row_number rpad rtrim sha1 sha224 sha256 sha384 sha512 sign sin sqrt stddev stddev_pop
    stddev_samp string_agg strpos substr substring sum tan translate treat trim trunc upper var_pop
    var_samp variance xmlagg xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlserialize xmltable
    json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize
    json_table json_value json
    """.split()
)
_POSTGRESQL = frozenset(
    """
    acosd acosh array_agg array_append array_cat array_dims array_fill array_length array_lower
    array_ndims array_position array_positions array_prepend array_remove array_replace array_reverse
    array_sort array_to_json array_to_string array_to_tsvector array_upper ascii asind asinh atan2d atand
    atanh abbrev area bit bit_count bit_length boundingbox box bound_box bpchar broadcast btrim bool
    boolean bytea cardinality casefold cbrt center char circle convert_from convert_to cosd cosh cotd
    crc32 crc32c date date_add date_bin date_part date_subtract date_trunc daterange datemultirange decode
    diagonal diameter difference digest div dmetaphone dmetaphone_alt encode erf erfc factorial family
    float4 float8 format format_type gamma gcd generate_series generate_subscripts get_bit get_byte height
    hmac host hostmask inet inet_merge inet_same_family int2 int4 int8 int4multirange int4range
    int8multirange int8range interval isclosed isempty isfinite isnull isopen json_agg json_agg_strict
    json_array_elements json_array_elements_text json_array_length json_build_array json_build_object
    json_each json_each_text json_extract_path json_extract_path_text json_object_agg
    json_object_agg_strict json_object_agg_unique json_object_keys json_populate_record
    json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_to_tsvector json_typeof
    jsonb jsonb_agg jsonb_agg_strict jsonb_array_elements jsonb_array_elements_text jsonb_array_length
    jsonb_build_array jsonb_build_object jsonb_concat jsonb_each jsonb_each_text jsonb_extract_path
    jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_object_agg_strict
    jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_query
    jsonb_path_query_array jsonb_path_query_first jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record
    jsonb_to_recordset jsonb_to_tsvector jsonb_typeof justify_days justify_hours justify_interval lcm
    levenshtein levenshtein_less_equal lgamma line lower_inc lower_inf lseg macaddr macaddr8 make_date
    make_interval make_time make_timestamp make_timestamptz masklen metaphone min_scale mode multirange
    netmask network normalize num_nonnulls num_nulls numeric numnode nummultirange numrange parse_ident
    path phraseto_tsquery plainto_tsquery point polygon popen pclose npoints querytree quote_ident
    quote_literal quote_nullable radius range_agg range_intersect_agg range_merge regexp_count
    regexp_instr regexp_match regexp_matches regexp_split_to_array regexp_split_to_table row_to_json scale
    set_bit set_byte set_masklen setweight show_trgm similarity sind sinh slope soundex split_part
    starts_with string_to_array string_to_table strip strict_word_similarity tand tanh text timezone
    to_ascii to_bin to_char to_date to_hex to_json to_jsonb to_number to_oct to_timestamp to_tsquery
    to_tsvector trim_array trim_scale trunc ts_delete ts_filter ts_headline ts_rank ts_rank_cd
    tsmultirange tsquery_phrase tsrange tstzmultirange tstzrange tsvector tsvector_to_array unaccent
    unistr unnest upper_inc upper_inf uuid_extract_timestamp uuid_extract_version varchar
    websearch_to_tsquery width width_bucket word_similarity xml xml_is_well_formed xmlcomment xmlparse
    xmlpi xmlroot xpath xpath_exists akeys avals defined delete each exist hstore hstore_to_array
    hstore_to_json hstore_to_jsonb hstore_to_matrix skeys slice svals is_normalized index nlevel lca ltree
    subltree subpath text2ltree ltree2text citext daitch_mokotoff dist_point earth_box earth_distance
    gc_to_sec ll_to_earth sec_to_gc latitude longitude
    """.split()
) - {"delete"}
_SQLITE = frozenset(
    """
    acosh asinh atanh bitxor bm25 char cosh date datetime format glob group_concat hex highlight ifnull
    iif json_array_insert json_array_length json_each json_error_position json_extract json_group_array
    json_group_object json_insert json_patch json_pretty json_quote json_remove json_replace json_set
    json_tree json_type json_valid jsonb jsonb_array jsonb_each jsonb_extract jsonb_group_array
    jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set
    jsonb_tree julianday like likelihood likely match matchinfo median nullif octet_length offsets
    percentile printf quote regexp sinh snippet soundex strftime tanh time timediff total typeof unhex
    unicode unistr unistr_quote unixepoch unlikely zeroblob generate_series django_date_extract
    django_date_trunc django_datetime_cast_date django_datetime_cast_time django_datetime_extract
    django_datetime_trunc django_format_dtdelta django_time_diff django_time_extract django_time_trunc
    django_timestamp_diff
    """.split()
)
_MYSQL = frozenset(
    """
    adddate addtime ascii bin binary bin_to_uuid bit_count bit_length char charset coercibility collation
    column_create column_get column_exists column_json column_list compress conv convert_tz crc32 date
    date_add date_format date_sub datediff day dayname dayofmonth dayofweek dayofyear elt export_set
    extractvalue field find_in_set format format_bytes from_base64 from_days from_unixtime get_format
    group_concat hex hour ifnull inet6_aton inet6_ntoa inet_aton inet_ntoa insert interval is_ipv4
    is_ipv4_compat is_ipv4_mapped is_ipv6 is_uuid isnull json_append json_array_append json_array_insert
    json_array_intersect json_compact json_contains json_contains_path json_depth json_detailed
    json_equals json_extract json_insert json_keys json_length json_loose json_merge json_merge_patch
    json_merge_preserve json_normalize json_overlaps json_overlay json_pretty json_quote json_remove
    json_replace json_schema_valid json_search json_set json_storage_size json_type json_unquote
    json_valid last_day lcase locate make_set makedate maketime median microsecond mid minute month
    monthname natural_sort_key oct ord period_add period_diff quarter quote regexp_instr sec_to_time
    second sha sha2 space soundex std str_to_date strcmp sformat subdate substring_index subtime time
    time_format time_to_sec timediff timestamp timestampadd timestampdiff to_base64 to_char to_date
    to_days to_seconds truncate ucase uncompress uncompressed_length unhex unix_timestamp updatexml
    uuid_to_bin values vec_distance vec_fromtext vec_totext weekday week weekofyear weight_string year
    yearweek distance point linestring polygon multipoint multilinestring multipolygon geometrycollection
    mbrcontains mbrcoveredby mbrcovers mbrdisjoint mbrequals mbrintersects mbroverlaps mbrtouches
    mbrwithin
    """.split()
)
_ORACLE = frozenset(
    """
    add_months ascii asciistr bfilename bitand bitor bitxor cardinality cast collect compose cosh
    dbms_lob.substr decode decompose dump empty_blob empty_clob from_tz hextoraw instrb instrc json_equal
    json_dataguide json_mergepatch json_transform last_day lengthb lengthc lnnvl median months_between
    nanvl nchr new_time next_day nls_initcap nls_lower nls_upper nlssort numtodsinterval numtoyminterval
    nvl nvl2 ora_hash rawtohex regexp_count regexp_instr remainder sinh soundex standard_hash substrb
    substrc sys_extract_utc tanh to_binary_double to_binary_float to_blob to_char to_clob to_date
    to_dsinterval to_lob to_nchar to_nclob to_number to_timestamp to_timestamp_tz to_yminterval tz_offset
    unistr vsize width_bucket xmlcast xmlparse xmlquery wm_concat ratio_to_report stats_mode sdo_contains
    sdo_coveredby sdo_covers sdo_equal sdo_filter sdo_inside sdo_nn sdo_overlapbdydisjoint
    sdo_overlapbdyintersect sdo_overlaps sdo_relate sdo_touch sdo_within_distance sdoaggrtype
    """.split()
)
_MICROSOFT = frozenset(
    """
    approx_count_distinct ascii atn2 charindex checksum choose concat count_big dateadd datediff
    datediff_big datefromparts datename datepart datetime2fromparts datetimefromparts datetrunc day
    difference eomonth format hashbytes iif isdate isjson isnull isnumeric json_modify len month nchar
    parse parsename patindex quotename replicate soundex space square stdev stdevp str string_escape
    string_split stuff switchoffset timefromparts todatetimeoffset try_cast try_convert try_parse unicode
    var varp year openjson
    """.split()
)
_STABLE = {
    "postgresql": _COMMON | _POSTGRESQL,
    "sqlite": _COMMON | _SQLITE,
    "mysql": _COMMON | _MYSQL,
    "oracle": _COMMON | _ORACLE,
    "microsoft": _COMMON | _MICROSOFT,
}
# GIS: PostGIS, SpatiaLite, MySQL and Oracle agree on few names but on the prefix.
_GIS = frozenset(
    """
    addmeasure asewkb asewkt asgeojson asgml askml assvg astext aswkb aswkt boundary buffer centroid
    collectionextract contains convexhull coveredby covers crosses difference dimension disjoint distance
    envelope equals exteriorring find_srid force_lhr geography geohash geometry geometryn geometrytype
    geomfromewkb geomfromewkt geomfromtext geomfromwkb geomunion getsrid hausdorffdistance intersection
    intersects isempty isring issimple isvalid isvalidreason length linemerge makeline makepoint makevalid
    mbrcontains mbrintersects mbrwithin numgeometries numinteriorring numinteriorrings numpoints overlaps
    perimeter pointn pointonsurface postgis_lib_version postgis_version ptdistwithin raster relate reverse
    rotate scale setsrid simplify snaptogrid srid startpoint symdifference touches transform translate
    union within box2d box3d extent mbrminx mbrminy mbrmaxx mbrmaxy geodesiclength geosversion
    proj4_version spatialite_version
    """.split()
)
# On PostgreSQL such names may as well be a project's own functions, so only PostGIS's casts and aggregates
# count.
_GIS_NAMES = {
    "sqlite": _GIS,
    "mysql": _GIS,
    "postgresql": frozenset({"box2d", "box3d", "find_srid", "geography", "geometry", "raster"}),
}
# They write although their names look harmless.
_WRITING_GIS = frozenset({"st_addtable", "st_createoverview"})
# The result changes by itself, but no row does.
_VOLATILE_ONLY = (
    _RANDOM
    | frozenset(
        """
    age benchmark changes clock_timestamp connection_id curdate current_catalog current_database
    current_date current_path current_query current_role current_schema current_schemas current_setting
    current_time current_timestamp current_user currval curtime database db_name dbtimezone found_rows
    gen_random_bytes gen_random_uuid get_lock getdate getutcdate inet_client_addr inet_client_port
    inet_server_addr inet_server_port is_free_lock is_used_lock last_insert_id last_insert_rowid lastval
    localtime localtimestamp newid newsequentialid nextval now pg_backend_pid pg_blocking_pids
    pg_cancel_backend pg_reload_conf pg_terminate_backend
    pg_column_size pg_conf_load_time pg_current_snapshot pg_current_wal_lsn pg_current_xact_id
    pg_current_xact_id_if_assigned pg_database_size pg_get_constraintdef pg_get_expr pg_get_functiondef
    pg_get_indexdef pg_get_serial_sequence pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role
    has_table_privilege has_schema_privilege pg_indexes_size pg_is_in_recovery pg_last_wal_receive_lsn
    pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_my_temp_schema pg_notify
    pg_postmaster_start_time pg_relation_size pg_size_pretty pg_sleep pg_sleep_for pg_sleep_until
    pg_table_is_visible pg_table_size pg_total_relation_size pg_trigger_depth pg_type_is_visible pg_typeof
    pg_wal_lsn_diff col_description obj_description shobj_description to_regclass to_regtype format_type
    random_bytes random_normal randomblob rand release_all_locks release_lock row_count rownum schema
    scope_identity session_user sessiontimezone set_config setval sleep sqlite_compileoption_get
    sqlite_compileoption_used sqlite_source_id sqlite_version statement_timestamp suser_name suser_sname
    sys_context sys_guid sysdate sysdatetime sysdatetimeoffset system_user systimestamp sysutcdatetime
    tablesample timeofday total_changes transaction_timestamp txid_current txid_current_if_assigned
    txid_current_snapshot txid_status uid user user_name utc_date utc_time utc_timestamp uuid
    uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4 uuid_short uuidv4 uuidv7 uuid_v4 uuid_v7 version
    xact_commit pg_postgis_version setseed
    """.split()
    )
    | {f"{name}()" for name in _CLOCKS}
)
_VOLATILE_PREFIXES = (
    "@",
    "pg_advisory_",
    "pg_get_",
    "pg_index",
    "pg_stat_get_",
    "pg_try_advisory_",
    "pragma_",
    "sqlite_compileoption",
)


def unstable(
    functions: Collection[str], vendor: str, vouched: Collection[str] = (), *, random_allowed: bool = False
) -> frozenset[str]:
    """Give the functions of a read whose result is not known to follow from tables and arguments alone.

    :param functions: names as ``rawsql`` reports them, in lower case.
    :param vendor: Django's ``connection.vendor``; for an unknown one only the functions common to all are
        known.
    :param vouched: further names that the project answers for.
    :param random_allowed: let ``random()`` and ``rand()`` pass.
    :returns: those that are on no list; empty when the read may be cached.
    """
    if not functions:
        return frozenset()
    known = _STABLE.get(vendor, _COMMON)
    allowed = {name.lower() for name in vouched}
    if random_allowed:
        allowed |= _RANDOM
    return frozenset(
        name for name in functions if name not in known and name not in allowed and not _is_gis(name, vendor)
    )


def may_write(functions: Collection[str], vendor: str, vouched: Collection[str] = ()) -> frozenset[str]:
    """Give the functions of a raw SELECT that may change rows.

    :param functions: names as ``rawsql`` reports them, in lower case.
    :param vendor: Django's ``connection.vendor``.
    :param vouched: further names that the project answers for.
    :returns: those known neither as stable nor as volatile without writing.
    """
    return frozenset(
        name
        for name in unstable(functions, vendor, vouched)
        if name not in _VOLATILE_ONLY and not name.startswith(_VOLATILE_PREFIXES)
    )


def is_time_word(value: str) -> bool:
    """Say whether PostgreSQL or SQLite may read a text as the current time or the current zone.

    :param value: a string literal's content or a string parameter.
    :returns: true for ``now``, ``Today``, ``tomorrow 04:05``, ``localtime`` and their like.
    """
    return _TIME_WORD.search(value) is not None


def _is_gis(name: str, vendor: str) -> bool:
    if name.startswith(("st_", "_st_", "sdo_geom", "sdo_cs")):
        return name not in _WRITING_GIS
    return name in _GIS_NAMES.get(vendor, ())
