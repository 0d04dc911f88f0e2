"""x86_64: change_page_attr and text poking."""
